"""The dtype in which the products of a linearization's tangents are computed.

Convolutions and matrix products are nearly all the work of a Jacobian-vector product, and on
processors with bfloat16 instructions they are up to twice as fast in that dtype. Their operands are
rounded to bfloat16 (8 bits), the kernels sum in float32, and results are cast back to the network's
dtype, in which everything else is computed. On a processor whose kernels would round the sums too,
the rounded operands are multiplied in float32: equally exact, but no faster.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_PRODUCTS: contextvars.ContextVar[tf.DType | None] = contextvars.ContextVar(
    "product_dtype", default=None
)
# Operations with kernels in bfloat16.
_TYPES = frozenset(
    ["MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"]
    + ["Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"]
    + ["Conv3D", "Conv3DBackpropInputV2", "Conv3DBackpropFilterV2"]
    + [f"DepthwiseConv2dNative{kind}" for kind in ("", "BackpropInput", "BackpropFilter")]
)


def check(dtype: Any) -> tf.DType | None:
    """Checks the dtype of products that a caller asks for; None stands for the network's own.

    Args:
      dtype: `"bfloat16"`, `tf.bfloat16` or None.

    Returns:
      The dtype or None.

    Raises:
      ValueError: If the dtype is another.
    """
    if dtype is None:
        return None
    # Not float16: tangents exceed its range.
    if dtype not in ("bfloat16", tf.bfloat16):
        raise ValueError(f'Expected product_dtype="bfloat16" or None, got {dtype!r}.')
    return tf.bfloat16


@contextlib.contextmanager
def products_in(dtype: tf.DType | None) -> Iterator[None]:
    """Lets the rules that run inside compute their products in a dtype."""
    token = _PRODUCTS.set(dtype)
    try:
        yield
    finally:
        _PRODUCTS.reset(token)


def product_dtype(op: tf.Operation) -> tf.DType | None:
    """Returns the dtype for the products of an operation's tangents; None for its own dtype."""
    # A network in float64 needs its precision.
    if op.type not in _TYPES or op.outputs[0].dtype != tf.float32:
        return None
    return _PRODUCTS.get()
