"""What Levenberg and Marquardt's heuristic judges a damping by."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# A loss is known to so many units in its last place: it is a sum of many numbers.
_UNITS = 16


def known_to(loss: tf.Tensor) -> tf.Tensor:
    """Returns how far a loss, a scalar, is known: the rounding of its sum."""
    return _UNITS * float(np.finfo(loss.dtype.as_numpy_dtype).eps) * tf.abs(loss)


def reduction_ratio(before: tf.Tensor, after: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """Returns ρ, the loss's change by a quadratic model's.

    Where the model predicts no fall, or less than the loss is known to, there is nothing to learn
    about the damping: ρ is 1/2, at which the heuristic keeps it. Measured there, ρ would be
    rounding, the damping would grow, and the steps and what is predicted of them shrink, for good.

    Args:
      before: The loss, a scalar.
      after: That after the step.
      predicted: What the model says of `after - before`.
    """
    half = tf.constant(0.5, predicted.dtype)
    told = -predicted > known_to(before)
    return tf.where(
        told, (after - before) / tf.where(told, predicted, -tf.ones_like(predicted)), half
    )
