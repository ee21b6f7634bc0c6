"""Gradients of scans by a linear recurrence, valid for any number of zeros and any shape.

With y_k = x_1 ... x_k and cotangents u, the gradient is g_i = (x_1 ... x_{i-1}) s_i, where
s_i = u_i + x_{i+1} s_{i+1} is the contribution of later positions. A cumulative log-sum-exp has the
same form with the factors exp(y_i - y_{i+1}). There are no divisions and no logarithms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Gradients = list[tf.Tensor | None]


def gradient_of_product(op: Any, upstream: tf.Tensor) -> Gradients:
    """Returns the gradient of a `Cumprod` in its values and its axis.

    Args:
      op: The operation, or its stand-in in an eager tape.
      upstream: The cotangent of its output.

    Returns:
      The gradient in the values, and None for the axis.
    """

    def gradient(x: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        x = tf.math.conj(x)
        before = tf.math.cumprod(x, axis=-1, exclusive=True)
        return before * _from_the_end(_left(x, 1), u)

    return [_along_last(op, upstream, gradient), None]


def gradient_of_log_sum_exp(op: Any, upstream: tf.Tensor) -> Gradients:
    """Returns the gradient of a `CumulativeLogsumexp` in its values and its axis.

    Args:
      op: The operation, or its stand-in in an eager tape.
      upstream: The cotangent of its output.

    Returns:
      The gradient in the values, and None for the axis.
    """

    def gradient(x: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        # Bounded, to avoid -inf - -inf.
        y = tf.maximum(tf.math.cumulative_logsumexp(x, axis=-1), x.dtype.min)
        growth = _before_zeros(y[..., :-1] - y[..., 1:], tf.shape(y), 1)
        return tf.exp(x - y) * _from_the_end(tf.exp(growth), u)

    return [_along_last(op, upstream, gradient), None]


def _along_last(op: Any, upstream: tf.Tensor, gradient: Callable[..., tf.Tensor]) -> tf.Tensor:
    """Applies a gradient of the inclusive forward scan along the last axis."""
    x, axis = op.inputs[0], op.inputs[1]
    reverse, exclusive = op.get_attr("reverse"), op.get_attr("exclusive")
    static = tf.get_static_value(axis)
    rank = x.shape.rank
    if static is not None and rank is not None:
        static = int(static) % rank
        order: Any = [i for i in range(rank) if i != static] + [static]
        back: Any = [order.index(i) for i in range(rank)]
        last = static == rank - 1
    else:
        rank = tf.rank(x)
        axis = tf.math.floormod(tf.cast(tf.reshape(axis, []), tf.int32), rank)
        order = tf.concat([tf.range(axis), tf.range(axis + 1, rank), [axis]], 0)
        back = tf.concat([tf.range(axis), [rank - 1], tf.range(axis, rank - 1)], 0)
        last = False

    def aligned(values: tf.Tensor) -> tf.Tensor:
        values = values if last else tf.transpose(values, order)
        return tf.reverse(values, [-1]) if reverse else values

    x, upstream = aligned(x), aligned(upstream)
    if exclusive:
        # Entry i of the inclusive scan is entry i + 1 of the exclusive one; the last is unused.
        upstream = _left(upstream, 1)
    result = gradient(x, upstream)
    result = tf.reverse(result, [-1]) if reverse else result
    result = result if last else tf.transpose(result, back)
    result.set_shape(op.inputs[0].shape)
    return result


def _left(values: tf.Tensor, distance: int | tf.Tensor) -> tf.Tensor:
    """Shifts values to the front of the last axis; zeros follow."""
    if isinstance(distance, int):
        moved = _before_zeros(values[..., distance:], tf.shape(values), distance)
        return tf.ensure_shape(moved, values.shape)
    size = tf.shape(values)[-1]
    moved = tf.roll(values, -distance, axis=-1)
    return tf.where(tf.range(size) < size - distance, moved, tf.zeros([], values.dtype))


def _before_zeros(values: tf.Tensor, shape: tf.Tensor, count: int) -> tf.Tensor:
    """Appends zeros along the last axis, up to a shape."""
    # The transpose of [..., :-count] has derivatives of any order, under XLA too; those of `tf.pad`
    # and `tf.concat` end at XlaDynamicUpdateSlice there.
    return tf.raw_ops.StridedSliceGrad(
        shape=shape,
        begin=[0, 0],
        end=[0, -count],
        strides=[1, 1],
        dy=values,
        ellipsis_mask=1,
        begin_mask=2,
    )


def _from_the_end(factors: tf.Tensor, terms: tf.Tensor) -> tf.Tensor:
    """Returns s with s_i = terms_i + factors_i s_{i+1}, in log₂ N steps of doubling distance."""
    size = terms.shape[-1] if terms.shape.rank is not None else None

    def step(distance: int | tf.Tensor, a: tf.Tensor, s: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return a * _left(a, distance), s + a * _left(s, distance)

    if size is not None:
        distance = 1
        while distance < size:
            factors, terms = step(distance, factors, terms)
            distance *= 2
        return terms
    length = tf.shape(terms)[-1]
    return tf.while_loop(
        lambda distance, *_: distance < length,
        lambda distance, a, s: (2 * distance, *step(distance, a, s)),
        (1, factors, terms),
        shape_invariants=(tf.TensorShape([]), factors.shape, terms.shape),
        maximum_iterations=31,
    )[2]
