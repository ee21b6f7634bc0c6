"""Small integer tensors, such as axes and orders, that follow from constants alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

_LARGEST = 16  # numbers in a tensor
_DEEPEST = 8  # operations between it and its constants

# `tf.get_static_value` knows constants, shapes and what puts them together, but no arithmetic:
# `tf.nn.softmax` over an axis other than the last counts the order of its transposition out.
_COMPUTED: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "AddV2": np.add,
    "ConcatV2": lambda *values: np.concatenate(values[:-1], int(values[-1])),
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
    "Identity": np.array,
    "InvertPermutation": np.argsort,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pack": lambda *values: np.stack(values[:-1], values[-1]),
    "Prod": lambda values, axes: np.prod(values, tuple(np.reshape(axes, -1))),
    "Range": np.arange,
    "Reshape": np.reshape,
    "Sub": np.subtract,
}


def whole_numbers(tensor: tf.Tensor, depth: int = _DEEPEST) -> np.ndarray | None:
    """Returns the value of a small integer tensor of a graph.

    Args:
      tensor: A tensor of any dtype and shape.
      depth: The largest number of operations between it and its constants.

    Returns:
      The value, or None if it does not follow from constants or is not small and of integers.
    """
    size = tensor.shape.num_elements()
    if not tensor.dtype.is_integer or size is None or size > _LARGEST:
        return None
    value = tf.get_static_value(tensor)
    op = getattr(tensor, "op", None)
    if value is not None or op is None or depth == 0:
        return value
    compute = _COMPUTED.get(op.type)
    if compute is None or (op.type == "Prod" and op.get_attr("keep_dims")):
        return None
    values: list[np.ndarray] = []
    for part in op.inputs:
        known = whole_numbers(part, depth - 1)
        if known is None:
            return None
        values.append(known)
    axis = [op.get_attr("axis")] if op.type == "Pack" else []
    return np.asarray(compute(*values, *axis), tensor.dtype.as_numpy_dtype)
