"""Projections of hyperparameters onto sets: the nearest point, in closed form."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mlhf.checks.arguments import check_number

Projection = Callable[[tf.Tensor], tf.Tensor]


def box(low: float = 0.0, high: float = float("inf")) -> Projection:
    """Returns the projection onto low <= x <= high.

    Args:
      low: The lower bound.
      high: The upper bound.

    Raises:
      ValueError: If low > high.
    """
    if not low <= high:
        raise ValueError(f"Expected low <= high, got {low} and {high}.")

    def project(x: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(x, tf.constant(low, x.dtype), tf.constant(high, x.dtype))

    return project


def simplex(total: float = 1.0) -> Projection:
    """Returns the projection onto x >= 0, Σ x = total, for each row of the last axis.

    With u sorted downwards and θ_k = (Σ_{i<=k} u_i - total) / k, the nearest point is
    max(x - θ_K, 0) for the largest K with u_K > θ_K (Duchi et al. 2008).

    Args:
      total: The sum, positive.

    Raises:
      ValueError: If the sum is not positive.
    """
    check_number("total", total, above=0)

    def project(x: tf.Tensor) -> tf.Tensor:
        # The nearest point moves with x along (1, ... 1); subtracting the largest entry leaves
        # digits for the total.
        x = x - tf.reduce_max(x, axis=-1, keepdims=True)
        ordered = tf.sort(x, axis=-1, direction="DESCENDING")
        count = tf.cast(tf.range(1, tf.shape(x)[-1] + 1), x.dtype)
        theta = (tf.cumsum(ordered, axis=-1) - tf.constant(total, x.dtype)) / count
        last = tf.reduce_sum(tf.cast(ordered > theta, tf.int32), -1, keepdims=True) - 1
        # There is no such K only if x is not finite, which others report.
        last = tf.maximum(last, 0)
        return tf.maximum(x - tf.gather(theta, last, axis=-1, batch_dims=x.shape.rank - 1), 0)

    return project


def capped_simplex(total: float) -> Projection:
    """Returns the projection onto 0 <= x <= 1, Σ x <= total, for each row of the last axis.

    This is the set of Franceschi et al. (2017) for the weights of examples. If the clipped x has a
    small enough sum, it is the projection; otherwise x is first shifted down by the θ at which
    Σ clip(x - θ, 0, 1) = total. That sum is linear between the points at which an entry meets a
    bound, so that θ follows from the two points around it.

    Args:
      total: The largest sum, positive.

    Raises:
      ValueError: If the sum is not positive.
    """
    check_number("total", total, above=0)

    def project(x: tf.Tensor) -> tf.Tensor:
        most = tf.constant(total, x.dtype)
        inside = tf.clip_by_value(x, 0, 1)
        bends = tf.sort(tf.concat([x, x - 1], -1), axis=-1)
        # Σ clip(x - θ) at every bend, by sorting once: Σ_i min(max(x_i - θ, 0), 1) is the sum of
        # (x_i - θ)₊ less that of (x_i - 1 - θ)₊.
        sums = _above(x, bends) - _above(x - 1, bends)
        # The sums fall from n to 0 along the bends; θ lies after the last one above the total.
        over = tf.reduce_sum(tf.cast(sums > most, tf.int32), -1, keepdims=True)
        last = tf.shape(bends)[-1] - 1
        rows = x.shape.rank - 1
        left = tf.clip_by_value(over - 1, 0, last)
        right = tf.clip_by_value(over, 0, last)
        at = tf.gather(bends, left, axis=-1, batch_dims=rows)
        to = tf.gather(bends, right, axis=-1, batch_dims=rows)
        high = tf.gather(sums, left, axis=-1, batch_dims=rows)
        low = tf.gather(sums, right, axis=-1, batch_dims=rows)
        share = tf.math.divide_no_nan(high - most, high - low)
        shifted = tf.clip_by_value(x - (at + share * (to - at)), 0, 1)
        fits = tf.reduce_sum(inside, -1, keepdims=True) <= most
        return tf.where(fits, inside, shifted)

    return project


def _above(x: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """Returns Σ_i (x_i - θ)₊ at every θ in points, [..., m], for x [..., n]."""
    ordered = tf.sort(x, axis=-1)
    count = tf.shape(x)[-1]
    below = tf.searchsorted(
        tf.reshape(ordered, [-1, count]), tf.reshape(points, [-1, tf.shape(points)[-1]])
    )
    below = tf.reshape(below, tf.shape(points))
    # From the top: sums of the largest 0, 1, ... n entries.
    tails = tf.cumsum(ordered, axis=-1, reverse=True)
    tails = tf.concat([tails, tf.zeros_like(tails[..., :1])], -1)
    tail = tf.gather(tails, below, axis=-1, batch_dims=x.shape.rank - 1)
    return tail - tf.cast(count - below, x.dtype) * points
