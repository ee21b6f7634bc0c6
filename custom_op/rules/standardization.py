"""The derivative of y = γ x̂ + β with x̂ = (x - mean) r, r = (variance + ε)^-½, in one pass.

The statistics are those of x itself, over some axes. With x̂ and r kept,

    R(x̂) = S R(x),  S t = r (t - mean(t) - x̂ mean(x̂ t)),

which is symmetric, and R(y) = γ S R(x) + R(γ) x̂ + R(β). One by one, the operations of a
normalisation pass some fifteen times over tensors of the size of x in each direction; here one
kernel takes the two means and another writes the result, in each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from custom_op.linear_maps import paired

_LANES = 1024  # entries of a row, when sums go over rows: enough to fill the vector units


def derivative(
    normalized: tf.Tensor,
    scale: tf.Tensor,
    gamma: tf.Tensor | None,
    axes: Sequence[int],
    gate: tf.Tensor | None,
) -> Callable[..., tf.Tensor | None]:
    """Returns the map from R(x), R(γ) and R(β) to R(y), or to that of max(y, 0).

    Args:
      normalized: x̂.
      scale: r, to broadcast against x̂.
      gamma: γ, to broadcast against x̂; None for one.
      axes: Over which the statistics are taken, of a tensor like x̂.
      gate: max(y, 0), whose tangent is wanted in the place of that of y; or None.

    Returns:
      A function of three tangents, None for zero; those of γ and β in any shape that broadcasts
      against x̂.
    """
    rank, dtype = normalized.shape.rank, normalized.dtype
    axes = tuple(sorted(axis % rank for axis in axes))

    def spread(values):
        return tf.reshape(values, [1] * (rank - values.shape.rank) + _sizes(values))

    gamma = tf.ones([1] * rank, dtype) if gamma is None else spread(gamma)
    wide = gamma.shape
    constants = [normalized, scale, gamma]

    def gated(values):
        return values if gate is None else tf.raw_ops.ReluGrad(gradients=values, features=gate)

    def formula(t, t_gamma, t_beta, normalized, scale, gamma):
        return gated(_push(t, t_gamma, t_beta, normalized, scale, gamma, axes))

    compiled = paired.pays(normalized.shape)
    by_channel = axes == tuple(range(rank - 1)) and wide.num_elements() in (1, wide[-1])

    def push(t, t_gamma, t_beta, normalized, scale, gamma):
        if not compiled:
            return formula(t, t_gamma, t_beta, normalized, scale, gamma)
        if paired.unwanted():
            return tf.zeros(normalized.shape, normalized.dtype)
        if by_channel and t_beta.shape.num_elements() in (1, t_beta.shape[-1]):
            kernel = _push_by_channel
        else:
            kernel = _push_compiled
        return paired.shaped(
            kernel(t, t_gamma, t_beta, normalized, scale, gamma, axes, gate), normalized.shape
        )

    def pull_with(beta_shape):
        def pull(u, normalized, scale, gamma):
            u = gated(u)
            if not compiled:
                return _pull(u, normalized, scale, gamma, axes, beta_shape)
            channels = beta_shape.num_elements() in (1, beta_shape[-1])
            kernel = _pull_by_channel if by_channel and channels else _pull_compiled
            pulled = kernel(u, normalized, scale, gamma, axes, tuple(beta_shape.as_list()))
            shapes = (normalized.shape, wide, beta_shape)
            return [paired.shaped(a, b) for a, b in zip(pulled, shapes, strict=True)]

        return pull

    def tangent_map(t, t_gamma=None, t_beta=None):
        if t is None:
            terms = [] if t_gamma is None else [spread(t_gamma) * normalized]
            terms += [] if t_beta is None else [spread(t_beta)]
            return gated(tf.broadcast_to(sum(terms[1:], terms[0]), tf.shape(normalized)))
        zero = tf.zeros([1] * rank, dtype)
        t_gamma = tf.zeros(tf.shape(gamma), dtype) if t_gamma is None else spread(t_gamma)
        t_beta = zero if t_beta is None else spread(t_beta)
        pull = pull_with(t_beta.shape)
        return paired.paired(push, pull, formula, constants)(t, t_gamma, t_beta)

    return tangent_map


def _sizes(values: tf.Tensor) -> list[int]:
    return values.shape.as_list()


def _mean(values: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    return tf.reduce_mean(values, axes, keepdims=True)


def _standardize(t, normalized, scale, axes):
    """S t, of the module's first lines."""
    return scale * (t - _mean(t, axes) - normalized * _mean(normalized * t, axes))


def _push(t, t_gamma, t_beta, normalized, scale, gamma, axes):
    return gamma * _standardize(t, normalized, scale, axes) + t_gamma * normalized + t_beta


def _pull(u, normalized, scale, gamma, axes, beta_shape):
    return (
        _standardize(gamma * u, normalized, scale, axes),
        _sum_to(u * normalized, gamma.shape),
        _sum_to(u, beta_shape),
    )


def _sum_to(values: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """The transpose of broadcasting from a shape of the same rank."""
    return tf.reduce_sum(values, [i for i, size in enumerate(shape) if size == 1], keepdims=True)


def _positive(values: tf.Tensor, gate: tf.Tensor | None) -> tf.Tensor:
    return values if gate is None else tf.where(gate > 0, values, tf.zeros([], values.dtype))


@tf.function(jit_compile=True, autograph=False)
def _push_compiled(t, t_gamma, t_beta, normalized, scale, gamma, axes, gate):
    return _positive(_push(t, t_gamma, t_beta, normalized, scale, gamma, axes), gate)


@tf.function(jit_compile=True, autograph=False)
def _pull_compiled(u, normalized, scale, gamma, axes, beta_shape):
    return _pull(u, normalized, scale, gamma, axes, beta_shape)


class _Rows:
    """A tensor as long rows, of all channels several times: XLA adds rows fastest that way."""

    def __init__(self, shape: tf.TensorShape):
        self.channels, size = shape[-1], shape.num_elements()
        entries = self.channels
        while entries < _LANES and size % (2 * entries) == 0:
            entries *= 2
        self._times = entries // self.channels
        self.count = size // self.channels

    def rows(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(values, [-1, self.channels * self._times])

    def repeat(self, values: tf.Tensor) -> tf.Tensor:
        """What there is one of a channel, for a row."""
        values = tf.broadcast_to(tf.reshape(values, [-1]), [self.channels])
        return tf.tile(values, [self._times])

    def sums(self, rows: tf.Tensor) -> tf.Tensor:
        """The sum of each channel, [channels]."""
        return tf.reduce_sum(
            tf.reshape(tf.reduce_sum(rows, 0), [self._times, self.channels]), axis=0
        )


@tf.function(jit_compile=True, autograph=False)
def _push_by_channel(t, t_gamma, t_beta, normalized, scale, gamma, axes, gate):
    del axes
    form = _Rows(t.shape)
    shape, t, normalized = t.shape, form.rows(t), form.rows(normalized)
    factor = form.repeat(gamma) * form.repeat(scale)
    inner = form.repeat(form.sums(t * normalized) / form.count)
    outer = form.repeat(form.sums(t) / form.count)
    pushed = (
        factor * t
        + (form.repeat(t_gamma) - factor * inner) * normalized
        + (form.repeat(t_beta) - factor * outer)
    )
    return _positive(tf.reshape(pushed, shape), gate)


@tf.function(jit_compile=True, autograph=False)
def _pull_by_channel(u, normalized, scale, gamma, axes, beta_shape):
    del axes
    form = _Rows(u.shape)
    shape, u, normalized = u.shape, form.rows(u), form.rows(normalized)
    to_gamma, to_beta = form.sums(u * normalized), form.sums(u)
    factor = form.repeat(gamma) * form.repeat(scale)
    mean, inner = form.repeat(to_beta / form.count), form.repeat(to_gamma / form.count)
    pulled = tf.reshape(factor * (u - mean - normalized * inner), shape)
    return pulled, _of_channels(to_gamma, gamma.shape), _of_channels(to_beta, beta_shape)


def _of_channels(values: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """One value a channel in a shape of one value a channel, or of one for all of them."""
    return tf.reshape(
        tf.reduce_sum(values) if tf.TensorShape(shape).num_elements() == 1 else values, shape
    )
