"""Rules for products of two tensors: R(xw) = R(x)w + xR(w), whatever the product."""

from __future__ import annotations

from custom_op.registry import register_r_forward, replay


def _bilinear(op, first: int, second: int):
    """The product rule for an operation that is linear in two of its inputs."""

    def tangent_map(*tangents):
        terms = []
        for position in (first, second):
            if tangents[position] is not None:
                inputs = list(op.inputs)
                inputs[position] = tangents[position]
                terms.append(replay(op, inputs)[0])
        return sum(terms[1:], terms[0]) if terms else None

    return tangent_map


@register_r_forward(
    "MatMul",
    "BatchMatMul",
    "BatchMatMulV2",
    "BatchMatMulV3",
    "Conv2D",
    "Conv3D",
    "DepthwiseConv2dNative",
)
def product(op):
    """The product x w, or the convolution of x with w."""
    return _bilinear(op, 0, 1)


@register_r_forward(
    "Conv2DBackpropInput",
    "Conv3DBackpropInputV2",
    "DepthwiseConv2dNativeBackpropInput",
)
def transposed_convolution(op):
    """The transpose of a convolution in x; its inputs are sizes, w and values."""
    return _bilinear(op, 1, 2)


@register_r_forward(
    "Conv2DBackpropFilter",
    "Conv3DBackpropFilterV2",
    "DepthwiseConv2dNativeBackpropFilter",
)
def convolution_of_gradients(op):
    """The transpose of a convolution in w; its inputs are x, sizes and values."""
    return _bilinear(op, 0, 2)


@register_r_forward("Einsum")
def einsum(op):
    """The contraction of one tensor, or of two."""
    if len(op.inputs) == 1:
        return lambda t: replay(op, [t])[0]
    return _bilinear(op, 0, 1)
