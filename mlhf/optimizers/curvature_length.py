"""The length of steps from slopes and curvatures along them, with noise told from slope.

Along a direction u the loss of the whole data is about L - η σ + η²/2 κ, with the slope σ = ⟨∇L, u⟩
and the curvature κ = ⟨u, G u⟩. The slope on the batch that u was made from, s = ⟨g, u⟩, is larger
than σ, for u goes down that batch's noise as well. The next step's gradient g₊ on another batch,
behind the step, has seen no u: E⟨g₊, u⟩ = σ - η κ, so

    ⟨g₊, u⟩ + η κ

is an estimate of σ without that bias, for one inner product.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

_SMALLEST_SHARE = 0.02


class Measurements(NamedTuple):
    """Weighted sums over the measured steps whose σ is known, and the last step; scalars."""

    signal: tf.Tensor  # Σ of the estimates of σ
    slope: tf.Tensor  # Σ s
    curvature: tf.Tensor  # Σ κ
    last_rate: tf.Tensor  # η of the last step
    last_slope: tf.Tensor  # s of the last step
    last_curvature: tf.Tensor  # κ of the last step, 0 if it was not measured
    newest_curvature: tf.Tensor  # κ of the last step that was measured


def no_measurements(dtype: tf.DType) -> Measurements:
    """Returns the measurements before the first step."""
    return Measurements(*[tf.zeros([], dtype)] * 7)


def completed(measurements: Measurements, next_slope: tf.Tensor, weight: tf.Tensor) -> Measurements:
    """Returns the measurements with the last step in the sums, if it was measured.

    Args:
      measurements: The measurements after that step.
      next_slope: ⟨g₊, u⟩, with u the last step's direction.
      weight: The weight of that step in the sums.
    """
    last = measurements
    zero = tf.zeros_like(next_slope)
    weight = tf.where(last.last_curvature > 0, weight, zero)
    signal = next_slope + last.last_rate * last.last_curvature
    return last._replace(
        signal=last.signal + weight * signal,
        slope=last.slope + weight * last.last_slope,
        curvature=last.curvature + weight * last.last_curvature,
        last_slope=zero,
        last_curvature=zero,
    )


def predicted_decrease(measurements: Measurements, next_slope: tf.Tensor) -> tf.Tensor:
    """Returns η σ - η²/2 κ for the last step, with the newest κ; 0 before the first.

    Args:
      measurements: The measurements after that step.
      next_slope: ⟨g₊, u⟩, with u the last step's direction.
    """
    rate = measurements.last_rate
    return rate * (next_slope + 0.5 * rate * measurements.newest_curvature)


def quotient(
    measurements: Measurements, slope: tf.Tensor, curvature: tf.Tensor, weight: tf.Tensor
) -> tf.Tensor:
    """Returns Σσ / Σκ, this step included.

    The share of σ in this step's s is taken from the sums; at the first step it is 1. It is kept
    between 0.02 and 1: estimates from a few steps may lie outside.

    Args:
      measurements: The completed measurements of the steps before.
      slope: s of this step.
      curvature: κ of this step, 0 if it is not measured.
      weight: The weight of this step in the sums.
    """
    is_known = measurements.slope > 0
    total = tf.where(is_known, measurements.slope, tf.ones_like(slope))
    share = tf.where(is_known, measurements.signal / total, tf.ones_like(slope))
    share = tf.clip_by_value(share, _SMALLEST_SHARE, 1.0)
    weight = tf.where(curvature > 0, weight, tf.zeros_like(weight))
    slopes = tf.nn.relu(measurements.slope + weight * slope)
    return share * tf.math.divide_no_nan(slopes, measurements.curvature + weight * curvature)


def most_without_loss(loss: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    """Returns the rate whose quadratic model, at its lowest point, has lost all of a positive loss.

    That is 2 L / s; infinity if the loss or the slope is not positive. Where outputs are saturated,
    as those of a network with large initial weights, there is no curvature, and nothing else bounds
    a step (as in Polyak 1987).

    Args:
      loss: L, the loss on the batch.
      slope: s = ⟨g, u⟩.
    """
    is_bound = (loss > 0) & (slope > 0)
    one = tf.ones_like(slope)
    bound = tf.where(is_bound, loss, one) / tf.where(is_bound, slope, one)
    return tf.where(is_bound, 2 * bound, one * float("inf"))
