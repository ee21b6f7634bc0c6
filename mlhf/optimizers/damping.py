"""Levenberg and Marquardt's heuristics for the damping, from what a quadratic model predicted."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# A loss is a sum of many numbers: its error, in units of its last place.
_UNITS = 16


def rounding_error(loss: tf.Tensor) -> tf.Tensor:
    """Returns the rounding error to expect in a scalar loss."""
    return _UNITS * float(np.finfo(loss.dtype.as_numpy_dtype).eps) * tf.abs(loss)


def reduction_ratio(before: tf.Tensor, after: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """Returns ρ, the loss's change by a quadratic model's.

    Where the model predicts no fall, or less than the loss's rounding error, there is nothing to
    learn about the damping: ρ is 1/2, at which the heuristic keeps it. Measured there, ρ would be
    rounding, the damping would grow, and the steps and what is predicted of them shrink, for good.

    Args:
      before: The loss, a scalar.
      after: That after the step.
      predicted: What the model says of `after - before`.
    """
    half = tf.constant(0.5, predicted.dtype)
    is_significant = -predicted > rounding_error(before)
    return tf.where(
        is_significant,
        (after - before) / tf.where(is_significant, predicted, -tf.ones_like(predicted)),
        half,
    )


def model_decrease(
    gradient: tf.Tensor, solution: tf.Tensor, residual: tf.Tensor, learning_rate: tf.Tensor
) -> tf.Tensor:
    """Returns q = -lr <g, x> + lr²/2 <x, A x>, what the quadratic model says of a step.

    Args:
      gradient: g.
      solution: x, where A x = g - residual.
      residual: r.
      learning_rate: lr.

    Returns:
      A scalar, negative where the model expects the loss to fall.
    """
    slope = tf.tensordot(gradient, solution, 1)
    curvature = tf.tensordot(solution, gradient - residual, 1)
    return -learning_rate * slope + 0.5 * learning_rate**2 * curvature


def adapt_damping(
    damping: tf.Tensor, before: tf.Tensor, after: tf.Tensor, predicted: tf.Tensor, decay: float
) -> tf.Tensor:
    """Levenberg and Marquardt's heuristic, as the original sets it.

    Where less change is predicted than the loss's rounding error, the damping stays: at a minimum
    it would otherwise grow by rounding alone.

    Args:
      damping: The scalar damping of the step.
      before: The loss on the step's batch before the step, without weight decay.
      after: The same after it.
      predicted: q of `model_decrease`.
      decay: Below 1. The damping is divided by it where the ratio of both is at most 1/4, and
        multiplied by it where it exceeds 3/4.

    Returns:
      The damping of the next step, within [1e-3, 1].
    """
    # Constants in the damping's own precision: tf.where alone makes float32 of Python's numbers.
    half, grow, shrink, keep = (
        tf.constant(value, damping.dtype) for value in (0.5, 1 / decay, decay, 1.0)
    )
    is_significant = tf.abs(predicted) > rounding_error(before)
    ratio = tf.where(
        is_significant, (after - before) / tf.where(is_significant, predicted, half), half
    )
    factor = tf.where(ratio <= 0.25, grow, tf.where(ratio > 0.75, shrink, keep))
    return tf.clip_by_value(damping * factor, 1e-3, 1.0)


def scaled_by_ratio(damping: tf.Tensor, ratio: tf.Tensor, factor: float) -> tf.Tensor:
    """Adapts a damping by the reduction ratio (Martens and Grosse 2015, section 6.5).

    Args:
      damping: λ, a scalar.
      ratio: ρ of `reduction_ratio`.
      factor: Below 1. λ is multiplied by it where ρ > 3/4, and divided by it where ρ < 1/4.

    Returns:
      The next step's λ.
    """
    shrink, one = tf.constant(factor, damping.dtype), tf.ones_like(damping)
    return damping * tf.where(ratio > 0.75, shrink, tf.where(ratio < 0.25, 1 / shrink, one))
