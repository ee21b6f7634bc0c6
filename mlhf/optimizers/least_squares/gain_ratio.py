"""The damping of Levenberg and Marquardt's method by the gain ratio, Nielsen's rule."""

from __future__ import annotations

import tensorflow as tf

from mlhf.optimizers.damping import rounding_error


def gain(before: tf.Tensor, after: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """Returns ρ, the fall of the loss divided by the fall that the model predicts.

    Args:
      before: The loss before the step, a scalar.
      after: The loss after it; not finite counts as no fall.
      predicted: The model's fall, positive.

    Returns:
      A scalar; -1 where the loss is not finite or the model predicts no fall.
    """
    is_known = tf.math.is_finite(after) & (predicted > 0)
    ratio = (before - after) / tf.where(is_known, predicted, tf.ones_like(predicted))
    return tf.where(is_known, ratio, -tf.ones_like(predicted))


def is_significant(before: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """Returns whether the fall that the model predicts exceeds the loss's rounding error."""
    return predicted > rounding_error(before)


def after_success(damping: tf.Tensor, ratio: tf.Tensor) -> tf.Tensor:
    """Returns the next λ after a step that was taken: λ max(1/3, 1 - (2ρ - 1)³) (Nielsen 1999).

    Args:
      damping: λ, a scalar.
      ratio: ρ, positive.
    """
    factor = 1 - (2 * tf.minimum(ratio, 2) - 1) ** 3
    return damping * tf.maximum(factor, tf.constant(1 / 3, damping.dtype))
