"""Rules for reductions that are not linear: extremes, products and norms."""

from __future__ import annotations

import tensorflow as tf

from custom_op import fallback
from custom_op.registry import LinearMap, register_r_forward


@register_r_forward("Max", "Min")
def extreme(op: tf.Operation) -> LinearMap:
    """R(max x) is the mean of R(x) over the positions of the maximum, as in TensorFlow."""
    x, axes = op.inputs
    kept = op.outputs[0]
    if not op.get_attr("keep_dims"):
        kept = tf.reshape(kept, tf.shape(_sum(x, axes, keepdims=True)))
    chosen = tf.cast(tf.equal(x, kept), x.dtype)
    weights = chosen / _sum(chosen, axes, keepdims=True)
    return lambda t, _: _sum(weights * t, axes, keepdims=op.get_attr("keep_dims"))


@register_r_forward("EuclideanNorm")
def euclidean_norm(op: tf.Operation) -> LinearMap:
    """R(‖x‖) = <x, R(x)> / ‖x‖, and zero at zero."""
    x, axes = op.inputs
    keepdims = op.get_attr("keep_dims")
    return lambda t, _: tf.math.divide_no_nan(_sum(x * t, axes, keepdims=keepdims), op.outputs[0])


@register_r_forward("L2Loss")
def half_of_square(op: tf.Operation) -> LinearMap:
    """R(‖x‖²/2) = <x, R(x)>."""
    return lambda t: tf.reduce_sum(op.inputs[0] * t)


@register_r_forward("Prod")
def product(op: tf.Operation) -> LinearMap:
    """The product rule along a tree of pairs; exact if factors are zero, at any order."""
    # Each level of the tree multiplies the even factors by the odd ones, with
    # R(ab) = a R(b) + R(a) b. N factors take N - 1 products in log₂ N levels.
    x, axes = op.inputs
    axes = tf.get_static_value(axes)
    if axes is None or not x.shape.is_fully_defined():
        return fallback.double_vjp(op)
    rank = x.shape.rank
    reduced = sorted({int(axis) % rank for axis in axes.reshape(-1)})
    order = [axis for axis in range(rank) if axis not in reduced] + reduced
    count = int(tf.TensorShape([x.shape[axis] for axis in reduced]).num_elements())
    shape = [x.shape[axis] for axis in order if axis not in reduced]

    def in_a_row(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.transpose(values, order), [*shape, count])

    levels = [in_a_row(x)]
    while levels[-1].shape[-1] > 1:
        even, odd, rest = _pairs(levels[-1])
        levels.append(tf.concat([even * odd, rest], -1))

    def tangent_map(t: tf.Tensor, _: None) -> tf.Tensor:
        t = in_a_row(t)
        for values in levels[:-1]:
            (a, b, _), (da, db, rest) = _pairs(values), _pairs(t)
            t = tf.concat([a * db + da * b, rest], -1)
        return tf.reshape(t if count else tf.zeros([*shape, 1], t.dtype), op.outputs[0].shape)

    return tangent_map


def _pairs(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Splits the last axis into even and odd entries and the entry left without a partner."""
    half = values.shape[-1] // 2
    return (
        values[..., 0 : 2 * half : 2],
        values[..., 1 : 2 * half : 2],
        values[..., 2 * half :],
    )


def _sum(values: tf.Tensor, axes: tf.Tensor, keepdims: bool) -> tf.Tensor:
    return tf.reduce_sum(values, axes, keepdims=keepdims)
