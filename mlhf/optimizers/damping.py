"""Levenberg and Marquardt's heuristics for the damping, from a quadratic model's prediction."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# The error of a loss, a sum of many numbers, in units of its last place.
_UNITS = 16


def rounding_error(loss: tf.Tensor) -> tf.Tensor:
    """Returns the rounding error to expect in a scalar loss."""
    return _UNITS * float(np.finfo(loss.dtype.as_numpy_dtype).eps) * tf.abs(loss)


def reduction_ratio(before: tf.Tensor, after: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """Returns ρ, the loss's change divided by a quadratic model's.

    Where the model predicts no fall, or less than the loss's rounding error, there is nothing to
    learn about the damping: ρ is 1/2, at which the heuristic keeps it. A ρ measured there would be
    rounding; the damping would grow, and steps and predictions would shrink for good.

    Args:
      before: The loss before the step, a scalar.
      after: The loss after the step.
      predicted: The model's prediction of `after - before`.
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
    """Returns q = -lr <g, x> + lr²/2 <x, A x>, the loss's change by the quadratic model.

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
    """Adapts a damping by Levenberg and Marquardt's heuristic as the original sets it.

    Where the predicted change is less than the loss's rounding error, the damping stays: at a
    minimum it would otherwise grow by rounding alone.

    Args:
      damping: The scalar damping of the step.
      before: The loss on the step's batch before the step, without weight decay.
      after: The same loss after the step.
      predicted: The change that `model_decrease` predicts.
      decay: A factor below 1. The damping is divided by it if the ratio of the changes is at most
        1/4, and multiplied by it if the ratio exceeds 3/4.

    Returns:
      The damping of the next step, within [1e-3, 1].
    """
    # Constants in the damping's precision: tf.where would make Python numbers float32.
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
      ratio: ρ, as from `reduction_ratio`.
      factor: A factor below 1, by which λ is multiplied where ρ > 3/4 and divided where ρ < 1/4.

    Returns:
      The next step's λ.
    """
    shrink, one = tf.constant(factor, damping.dtype), tf.ones_like(damping)
    return damping * tf.where(ratio > 0.75, shrink, tf.where(ratio < 0.25, 1 / shrink, one))
