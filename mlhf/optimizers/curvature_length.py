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


class Measurements(NamedTuple):
    """Sums over the measured steps whose slope is known, and the last step; scalars."""

    signal: tf.Tensor  # Σ of the estimates of σ
    slope: tf.Tensor  # Σ s
    curvature: tf.Tensor  # Σ κ
    last_rate: tf.Tensor  # η of the last step
    last_slope: tf.Tensor  # s of the last step
    last_curvature: tf.Tensor  # κ of the last step, 0 if it was not measured


def no_measurements(dtype: tf.DType) -> Measurements:
    """Returns the measurements before the first step."""
    return Measurements(*[tf.zeros([], dtype)] * 6)


def completed(measurements: Measurements, next_slope: tf.Tensor) -> Measurements:
    """Returns the measurements with the last step in the sums, if it was measured.

    Args:
      measurements: The measurements after that step.
      next_slope: ⟨g₊, u⟩, with u the last step's direction.
    """
    signal, slope, curvature, rate, last_slope, last_curvature = measurements
    counts = last_curvature > 0
    zero = tf.zeros_like(signal)
    return measurements._replace(
        signal=signal + tf.where(counts, next_slope + rate * last_curvature, zero),
        slope=slope + tf.where(counts, last_slope, zero),
        curvature=curvature + last_curvature,
        last_slope=zero,
        last_curvature=zero,
    )


def quotient(
    measurements: Measurements, slope: tf.Tensor, curvature: tf.Tensor, noise_share: float
) -> tf.Tensor:
    """Returns Σ (σ + a (s - σ)) / Σ κ, this step's s and κ included.

    The share of σ in this step's s is taken from the sums; at the first step it is 1.

    Args:
      measurements: The completed measurements of the steps before.
      slope: s of this step.
      curvature: κ of this step, 0 if it is not measured.
      noise_share: a, the share of the noise that counts as slope.
    """
    known = measurements.slope > 0
    share = tf.where(
        known,
        tf.nn.relu(tf.math.divide_no_nan(measurements.signal, measurements.slope)),
        tf.ones_like(slope),
    )
    share = noise_share + (1 - noise_share) * share
    measured = tf.where(curvature > 0, slope, tf.zeros_like(slope))
    slopes = tf.nn.relu(measurements.slope + measured)
    return share * tf.math.divide_no_nan(slopes, measurements.curvature + curvature)
