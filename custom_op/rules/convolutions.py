"""Rules for convolutions and their transposes: linear in each of two inputs.

The tangent is the operation again, if TensorFlow has its kernels on CPU. Outside XLA some are
missing, most of them in float64: gradients of dilated and of grouped convolutions, and everything
with the channels first. In these cases the tangent is a sum over the taps of the kernel, made of
slices and matrix products, whose derivatives exist for any order and dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import tensorflow as tf

from custom_op.registry import LinearMap, register_r_forward
from custom_op.rules import kernels
from custom_op.rules.products import bilinear
from custom_op.tensorflow_internals import is_compiled

_DEPTHWISE = "DepthwiseConv2dNative"


@register_r_forward("Conv2D", "Conv3D", "DepthwiseConv2dNative")
def convolution(op: tf.Operation) -> LinearMap:
    """The convolution of x with w."""
    x, w = op.inputs
    if not _lacks_kernels(op, x.shape, w.shape):
        return bilinear(op, 0, 1)
    taps = _Taps(op, x.shape, w.shape)
    return _product_rule(taps.convolve, x, w)


@register_r_forward(
    "Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput"
)
def transposed_convolution(op: tf.Operation) -> LinearMap:
    """The transpose of a convolution in x; its inputs are sizes, w and values."""
    _, w, values = op.inputs
    shape = op.outputs[0].shape
    if not _lacks_kernels(op, shape, w.shape):
        return bilinear(op, 1, 2)
    taps = _Taps(op, shape, w.shape)

    def transpose(w: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        at = tf.zeros(shape, values.dtype)
        return tf.gradients(taps.convolve(at, w), at, values)[0]

    tangent_map = _product_rule(transpose, w, values)
    return lambda _, dw, dvalues: tangent_map(dw, dvalues)


@register_r_forward(
    "Conv2DBackpropFilter", "Conv3DBackpropFilterV2", "DepthwiseConv2dNativeBackpropFilter"
)
def convolution_of_gradients(op: tf.Operation) -> LinearMap:
    """The transpose of a convolution in w; its inputs are x, sizes and values."""
    x, _, values = op.inputs
    shape = op.outputs[0].shape
    if not _lacks_kernels(op, x.shape, shape):
        return bilinear(op, 0, 2)
    taps = _Taps(op, x.shape, shape)

    def transpose(x: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        at = tf.zeros(shape, values.dtype)
        return tf.gradients(taps.convolve(x, at), at, values)[0]

    tangent_map = _product_rule(transpose, x, values)
    return lambda dx, _, dvalues: tangent_map(dx, dvalues)


def _product_rule(product: Callable[..., tf.Tensor], a: tf.Tensor, b: tf.Tensor) -> LinearMap:
    def tangent_map(da: tf.Tensor | None, db: tf.Tensor | None) -> tf.Tensor:
        terms = [] if da is None else [product(da, b)]
        if db is not None:
            terms.append(product(a, db))
        return sum(terms[1:], terms[0])

    return tangent_map


def _lacks_kernels(op: tf.Operation, x: tf.TensorShape, w: tf.TensorShape) -> bool:
    """Whether TensorFlow on CPU lacks the convolution or a gradient of it outside XLA."""
    if not (x.is_fully_defined() and w.is_fully_defined()):
        return False
    if is_compiled() or tf.config.list_logical_devices("GPU"):
        return False
    first = op.get_attr("data_format").startswith(b"NC")
    grouped = not op.type.startswith(_DEPTHWISE) and x[1 if first else -1] != w[-2]
    if grouped and op.type.startswith("Conv3D"):
        return True
    dilated = any(rate > 1 for rate in op.get_attr("dilations"))
    if op.outputs[0].dtype in (tf.float32, tf.bfloat16) and kernels.has_onednn():
        return False
    return first or grouped or (dilated and not op.type.startswith(_DEPTHWISE))


class _Taps:
    """A convolution as a sum over the taps of its kernel."""

    def __init__(self, op: tf.Operation, x: tf.TensorShape, w: tf.TensorShape) -> None:
        self._spatial = x.rank - 2
        self._first = op.get_attr("data_format").startswith(b"NC")
        self._depthwise = op.type.startswith(_DEPTHWISE)
        self._kernel = w.as_list()[: self._spatial]
        self._strides = self._of_space(op.get_attr("strides"))
        self._dilations = self._of_space(op.get_attr("dilations"))
        sizes = self._of_space(x.as_list())
        reach = [(k - 1) * rate + 1 for k, rate in zip(self._kernel, self._dilations, strict=True)]
        self._padding = self._paddings(op, sizes, reach)
        self._sizes = [
            (size + sum(pad) - r) // stride + 1
            for size, pad, r, stride in zip(sizes, self._padding, reach, self._strides, strict=True)
        ]

    def _of_space(self, values: Sequence[int]) -> list[int]:
        return list(values[2:] if self._first else values[1:-1])

    def _paddings(
        self, op: tf.Operation, sizes: list[int], reach: list[int]
    ) -> list[tuple[int, int]]:
        padding = op.get_attr("padding")
        if padding == b"VALID":
            return [(0, 0)] * self._spatial
        if padding == b"EXPLICIT":
            flat = op.get_attr("explicit_paddings")
            pairs = list(zip(flat[::2], flat[1::2], strict=True))
            return pairs[2:] if self._first else pairs[1:-1]
        pads = []
        for size, r, stride in zip(sizes, reach, self._strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + r - size, 0)
            pads.append((total // 2, total - total // 2))
        return pads

    def convolve(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Returns the convolution of x with w, in the formats of the operation."""
        axes = list(range(self._spatial + 2))
        if self._first:
            x = tf.transpose(x, [0, *axes[2:], 1])
        x = tf.pad(x, [(0, 0), *self._padding, (0, 0)])
        total = None
        for place in itertools.product(*(range(k) for k in self._kernel)):
            window = tuple(
                slice(i * rate, i * rate + (size - 1) * stride + 1, stride)
                for i, rate, size, stride in zip(
                    place, self._dilations, self._sizes, self._strides, strict=True
                )
            )
            term = self._multiply(x[(slice(None), *window)], w[place])
            total = term if total is None else total + term
        return tf.transpose(total, [0, axes[-1], *axes[1:-1]]) if self._first else total

    def _multiply(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Returns one tap: the channels of x mixed by a matrix, group by group."""
        outer = tf.shape(x)[:-1]
        if self._depthwise:
            product = x[..., None] * w
        elif x.shape[-1] == w.shape[0]:
            return tf.tensordot(x, w, 1)
        else:
            inside = w.shape[0]
            groups = x.shape[-1] // inside
            x = tf.reshape(x, tf.concat([outer, [groups, inside]], 0))
            w = tf.reshape(w, [inside, groups, w.shape[1] // groups])
            product = tf.einsum("...gi,igo->...go", x, w)
        channels = product.shape[-2] * product.shape[-1]
        return tf.reshape(product, tf.concat([outer, [channels]], 0))
