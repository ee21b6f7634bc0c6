"""Rules for fused batch and local response normalization, and for their gradients.

The tangents are written as exact formulas of plain operations, so that their derivatives are right
at any order: TensorFlow's own are wrong at the third for batch normalisation and missing at
the second for local response normalisation. Statistics are computed in the dtype of the scale.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from custom_op.registry import LinearMap, register_r_forward


class _Batch:
    """The statistics of one batch normalisation, x̂ = (x - m) r with r = (v + ε)^-½.

    Attributes:
      axes: All axes except that of the channels.
      normalized: The normalized values x̂.
      scale: The factor r, one entry per channel, in broadcasting shape.
      count: The number of values per channel.
    """

    def __init__(
        self, op: tf.Operation, x: tf.Tensor, given: tuple[tf.Tensor, tf.Tensor] | None
    ) -> None:
        rank = x.shape.rank
        channels_first = op.get_attr("data_format").decode().startswith("NC")
        self._channel = 1 if channels_first else rank - 1
        self._rank = rank
        self.axes = [axis for axis in range(rank) if axis != self._channel]
        # A frozen normalization takes its statistics from outside.
        self.frozen = given is not None
        if given is None:
            mean = self.mean(x)
            self._centered = x - mean
            variance = self.mean(tf.square(self._centered))
        else:
            mean, variance = (self.spread(value) for value in given)
            self._centered = x - mean
        self.scale = tf.math.rsqrt(variance + op.get_attr("epsilon"))
        self.normalized = self._centered * self.scale
        self.count = tf.cast(tf.size(x) // tf.shape(x)[self._channel], x.dtype)

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Reshapes one value per channel for broadcasting."""
        shape = [1] * self._rank
        shape[self._channel] = -1
        return tf.reshape(values, shape)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the mean over all axes except the channels, in broadcasting shape."""
        return tf.reduce_mean(values, self.axes, keepdims=True)

    def tangents(
        self, x: tf.Tensor | None, mean: tf.Tensor | None = None, variance: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns R(m), R(v), R(r) and R(x̂) from R(x) and, if frozen, R(m) and R(v); None is 0."""
        zero = tf.zeros([], self.scale.dtype)
        x = zero if x is None else x
        if self.frozen:
            mean, variance = (
                zero if value is None else self.spread(value) for value in (mean, variance)
            )
        else:
            mean = self.mean(x)
            # The mean of x - m is zero: R(m) adds nothing.
            variance = 2 * self.mean(self._centered * x)
        scale = -0.5 * self.scale**3 * variance
        return mean, variance, scale, (x - mean) * self.scale + self._centered * scale


def _cast(values: tf.Tensor | None, dtype: tf.DType) -> tf.Tensor | None:
    return None if values is None else tf.cast(values, dtype)


@register_r_forward("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def batch_normalization(op: tf.Operation) -> LinearMap:
    """R(γ x̂ + β) = R(γ) x̂ + γ R(x̂) + R(β), with the statistics' tangents in R(x̂)."""
    # Outputs 1 and 2 are the statistics for the moving averages; the others, which TensorFlow keeps
    # for its gradient, pass no tangents: the gradient's rule accounts for their dependence on x.
    x, gamma, _, old_mean, old_variance = op.inputs
    output, dtype = op.outputs[0], gamma.dtype
    frozen = not op.get_attr("is_training")
    batch = _Batch(op, tf.cast(x, dtype), (old_mean, old_variance) if frozen else None)
    share = op.get_attr("exponential_avg_factor")

    def tangent_map(
        dx: tf.Tensor | None,
        dgamma: tf.Tensor | None,
        dbeta: tf.Tensor | None,
        dmean: tf.Tensor | None,
        dvariance: tf.Tensor | None,
    ) -> tuple[tf.Tensor | None, ...]:
        mean, variance, _, normalized = batch.tangents(_cast(dx, dtype), dmean, dvariance)
        total = batch.spread(gamma) * normalized
        if dgamma is not None:
            total += batch.spread(dgamma) * batch.normalized
        if dbeta is not None:
            total += batch.spread(dbeta)
        total = tf.cast(tf.broadcast_to(total, tf.shape(output)), output.dtype)
        if frozen:
            return total, dmean, dvariance
        unbiased = batch.count / tf.maximum(batch.count - 1, 1)
        statistics = []
        for fresh, old in ((mean, dmean), (unbiased * variance, dvariance)):
            fresh = share * tf.broadcast_to(tf.reshape(fresh, [-1]), tf.shape(gamma))
            statistics.append(fresh if old is None else fresh + (1 - share) * old)
        return total, *statistics

    return tangent_map


@register_r_forward("FusedBatchNormGrad", "FusedBatchNormGradV2", "FusedBatchNormGradV3")
def gradient_of_batch_normalization(op: tf.Operation) -> LinearMap:
    """The tangents of the gradients in x, γ and β, from those of the upstream g, of x and of γ."""
    # The gradients are γ r (g - mean(g) - x̂ mean(g x̂)), Σ g x̂ and Σ g, with means over all axes
    # except the channels; frozen, the first is γ r g.
    g, x, gamma, mean, variance = op.inputs[:5]
    dtype = gamma.dtype
    frozen = not op.get_attr("is_training")
    batch = _Batch(op, tf.cast(x, dtype), (mean, variance) if frozen else None)
    g, wide = tf.cast(g, dtype), batch.spread(gamma)
    inner, outer = batch.mean(g), batch.mean(g * batch.normalized)
    residual = g if frozen else g - inner - batch.normalized * outer

    def tangent_map(
        dg: tf.Tensor | None,
        dx: tf.Tensor | None,
        dgamma: tf.Tensor | None,
        dmean: tf.Tensor | None,
        dvariance: tf.Tensor | None,
        *_: tf.Tensor | None,
    ) -> Any:
        zero = tf.zeros([], dtype)
        dg = zero if dg is None else tf.cast(dg, dtype)
        dgamma = zero if dgamma is None else batch.spread(dgamma)
        if not frozen:
            dmean = dvariance = None
        _, _, dscale, dnormalized = batch.tangents(_cast(dx, dtype), dmean, dvariance)
        dinner = batch.mean(tf.broadcast_to(dg, tf.shape(g)))
        douter = batch.mean(dg * batch.normalized + g * dnormalized)
        dresidual = dg
        if not frozen:
            dresidual = dg - dinner - dnormalized * outer - batch.normalized * douter
        to_x = (dgamma * batch.scale + wide * dscale) * residual + wide * batch.scale * dresidual
        return (
            tf.cast(tf.broadcast_to(to_x, tf.shape(x)), x.dtype),
            batch.count * tf.reshape(douter, [-1]),
            batch.count * tf.reshape(dinner, [-1]),
        )

    return tangent_map


class _Windows:
    """Sums over neighbouring channels, as a product with a banded matrix."""

    def __init__(self, op: tf.Operation, x: tf.Tensor) -> None:
        channels = tf.shape(x)[3]
        radius = tf.minimum(op.get_attr("depth_radius"), channels - 1)
        ones = tf.ones([channels, channels], x.dtype)
        self._band = tf.linalg.band_part(ones, radius, radius)
        self.alpha, self.beta = op.get_attr("alpha"), op.get_attr("beta")
        self.base = op.get_attr("bias") + self.alpha * self.sums(tf.square(x))

    def sums(self, values: tf.Tensor) -> tf.Tensor:
        """Each channel's sum with its neighbours; symmetric."""
        return tf.tensordot(values, self._band, 1)


@register_r_forward("LRN")
def local_response_normalization(op: tf.Operation) -> LinearMap:
    """R(x s^-β) = s^-β R(x) - β x s^(-β-1) R(s), with s = bias + α Σ x² over near channels."""
    x = op.inputs[0]
    windows = _Windows(op, x)
    factor = windows.base**-windows.beta
    slope = -2 * windows.alpha * windows.beta * x * factor / windows.base
    return lambda t: factor * t + slope * windows.sums(x * t)


@register_r_forward("LRNGrad")
def gradient_of_local_response_normalization(op: tf.Operation) -> LinearMap:
    """The tangent of g s^-β - 2αβ x Σ (g y / s), with y = x s^-β and sums over near channels."""
    g, x, y = op.inputs
    windows = _Windows(op, x)
    base, beta, factor = windows.base, windows.beta, windows.base**-windows.beta
    weighted = windows.sums(g * y / base)

    def tangent_map(dg: tf.Tensor | None, dx: tf.Tensor | None, dy: tf.Tensor | None) -> tf.Tensor:
        zero = tf.zeros_like(x)
        dg, dx, dy = (zero if t is None else t for t in (dg, dx, dy))
        dbase = 2 * windows.alpha * windows.sums(x * dx)
        dweighted = windows.sums((dg * y + g * dy - g * y * dbase / base) / base)
        return (
            factor * dg
            - beta * g * factor / base * dbase
            - 2 * windows.alpha * beta * (dx * weighted + x * dweighted)
        )

    return tangent_map
