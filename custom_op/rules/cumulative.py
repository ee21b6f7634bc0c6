"""Rules for cumulative products and cumulative sums of exponentials.

Both are scans by an associative operation, and so are their tangents: log₂ N steps, each of which
combines every position with the one 1, 2, 4, ... before it. TensorFlow's gradients are no help:
that of the product divides by the factors, and is zero where a factor is; that of the sums takes
the logarithm of the incoming gradient, which has no derivative at zero, where it would be needed.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from custom_op import fallback
from custom_op.registry import LinearMap, register_r_forward


@register_r_forward("Cumprod")
def cumulative_product(op: tf.Operation) -> LinearMap:
    """y_k = x_1 ... x_k, with R(ab) = a R(b) + R(a) b in each step of the scan."""
    return _scan(op, one=1.0, combine=lambda a, b: a * b, slopes=lambda a, b: (b, a))


@register_r_forward("CumulativeLogsumexp")
def cumulative_log_sum_exp(op: tf.Operation) -> LinearMap:
    """y_k = log(e^x_1 + ... + e^x_k), with R = σ(a - b) R(a) + σ(b - a) R(b) in each step."""
    return _scan(
        op,
        one=op.outputs[0].dtype.min,
        combine=_log_add,
        slopes=lambda a, b: (tf.sigmoid(a - b), tf.sigmoid(b - a)),
    )


def _log_add(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Returns log(eᵃ + eᵇ), with derivatives that are right where a = b too."""
    # Those of max(a, b) + log(1 + e^-|a - b|) are not: second derivatives pass here.
    largest = tf.stop_gradient(tf.maximum(a, b))
    return largest + tf.math.log(tf.exp(a - largest) + tf.exp(b - largest))


def _scan(
    op: tf.Operation,
    one: float,
    combine: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    slopes: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
) -> LinearMap:
    """Returns the tangent map of a scan along one axis.

    Args:
      op: The operation; its inputs are values and axis.
      one: The neutral element, before the first position of an exclusive scan.
      combine: The associative operation on earlier and later values.
      slopes: Its derivatives in the two.

    Returns:
      The tangent map.
    """
    x, axis = op.inputs
    axis = tf.get_static_value(axis)
    if axis is None or x.shape.rank is None or x.shape[int(axis)] is None:
        return fallback.double_vjp(op)
    axis = int(axis) % x.shape.rank
    size = x.shape[axis]
    order = [i for i in range(x.shape.rank) if i != axis] + [axis]
    back = [order.index(i) for i in range(x.shape.rank)]

    def aligned(values: tf.Tensor) -> tf.Tensor:
        values = tf.transpose(values, order)
        return values[..., ::-1] if op.get_attr("reverse") else values

    def restored(values: tf.Tensor) -> tf.Tensor:
        values = values[..., ::-1] if op.get_attr("reverse") else values
        return tf.transpose(values, back)

    def shifted(values: tf.Tensor, filler: float) -> tf.Tensor:
        """Shifts values for an exclusive scan: the last is unused, the first is neutral."""
        filler = tf.fill(tf.shape(values[..., :1]), tf.cast(filler, values.dtype))
        return tf.concat([filler, values[..., :-1]], -1)

    exclusive = op.get_attr("exclusive") and size
    values = aligned(x)
    if exclusive:
        values = shifted(values, one)
    steps = []
    distance = 1
    while distance < size:
        earlier, later = values[..., :-distance], values[..., distance:]
        steps.append((distance, *slopes(earlier, later)))
        values = tf.concat([values[..., :distance], combine(earlier, later)], -1)
        distance *= 2

    def tangent_map(t: tf.Tensor, _: None) -> tf.Tensor:
        t = aligned(t)
        if exclusive:
            t = shifted(t, 0.0)
        for distance, of_earlier, of_later in steps:
            moved = of_earlier * t[..., :-distance] + of_later * t[..., distance:]
            t = tf.concat([t[..., :distance], moved], -1)
        return restored(t)

    return tangent_map
