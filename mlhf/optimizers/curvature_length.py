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
    """Sums over the measured steps whose slope is known, and the last step; scalars."""

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


def completed(measurements: Measurements, next_slope: tf.Tensor) -> Measurements:
    """Returns the measurements with the last step in the sums, if it was measured.

    Args:
      measurements: The measurements after that step.
      next_slope: ⟨g₊, u⟩, with u the last step's direction.
    """
    last = measurements
    zero = tf.zeros_like(next_slope)
    counts = last.last_curvature > 0
    signal = next_slope + last.last_rate * last.last_curvature
    return last._replace(
        signal=last.signal + tf.where(counts, signal, zero),
        slope=last.slope + tf.where(counts, last.last_slope, zero),
        curvature=last.curvature + last.last_curvature,
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


def quotient(measurements: Measurements, slope: tf.Tensor, curvature: tf.Tensor) -> tf.Tensor:
    """Returns Σσ / Σκ, this step included.

    The share of σ in this step's s is taken from the sums; at the first step it is 1. It is at
    least 0.02: the first estimates may be negative.

    Args:
      measurements: The completed measurements of the steps before.
      slope: s of this step.
      curvature: κ of this step, 0 if it is not measured.
    """
    known = measurements.slope > 0
    share = tf.where(
        known,
        tf.math.divide_no_nan(measurements.signal, measurements.slope),
        tf.ones_like(slope),
    )
    share = tf.maximum(share, _SMALLEST_SHARE)
    measured = tf.where(curvature > 0, slope, tf.zeros_like(slope))
    slopes = tf.nn.relu(measurements.slope + measured)
    return share * tf.math.divide_no_nan(slopes, measurements.curvature + curvature)
