"""Rules for products of two tensors: R(xw) = R(x)w + xR(w), for any kind of product."""

from __future__ import annotations

import tensorflow as tf

from custom_op.linear_maps import precision
from custom_op.registry import LinearMap, register_r_forward, replay
from custom_op.rules import kernels
from custom_op.tensorflow_internals import is_compiled


def bilinear(op: tf.Operation, first: int, second: int) -> LinearMap:
    """Returns the product rule of an operation that is linear in each of two of its inputs."""
    rounded = precision.product_dtype(op)
    # If kernels would round the sums too, only the operands are rounded.
    narrow_sums = rounded and not (is_compiled() or kernels.sums_bfloat16_in_float32())
    dtype = None if narrow_sums else rounded

    def narrow(tensor: tf.Tensor) -> tf.Tensor:
        if rounded is None:
            return tensor
        narrowed = tf.cast(tensor, rounded)
        return narrowed if dtype is not None else tf.cast(narrowed, tensor.dtype)

    fixed = list(op.inputs)
    for position in (first, second):
        fixed[position] = narrow(fixed[position])

    def tangent_map(*tangents: tf.Tensor | None) -> tf.Tensor | None:
        terms = []
        for position in (first, second):
            if tangents[position] is not None:
                inputs = list(fixed)
                inputs[position] = narrow(tangents[position])
                product = replay(op, inputs, dtype=dtype)[0]
                terms.append(product if dtype is None else tf.cast(product, op.outputs[0].dtype))
        return sum(terms[1:], terms[0]) if terms else None

    return tangent_map


@register_r_forward(
    "MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "SparseMatMul", "Cross"
)
def product(op: tf.Operation) -> LinearMap:
    """The product x w of matrices, or of vectors of three numbers."""
    return bilinear(op, 0, 1)


@register_r_forward("Einsum")
def einsum(op: tf.Operation) -> LinearMap:
    """The contraction of one tensor, or of two."""
    if len(op.inputs) == 1:
        return lambda t: replay(op, [t])[0]
    return bilinear(op, 0, 1)
