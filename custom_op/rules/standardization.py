"""The derivative of y = γ x̂ + β with x̂ = (x - mean) r, r = (variance + ε)^-½, in one pass.

The statistics are those of x itself, over some axes. With stored x̂ and r,

    R(x̂) = S R(x),  S t = r (t - mean(t) - x̂ mean(x̂ t)),

which is symmetric, and R(y) = γ S R(x) + R(γ) x̂ + R(β). The separate operations of a
normalization pass some fifteen times over tensors of the size of x in each direction; here, in each
direction, one kernel computes the two means and another writes the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from custom_op.linear_maps import paired

_Pulled = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
_LANES = 1024  # entries of a row when rows are summed: enough to fill the vector units


def derivative(
    normalized: tf.Tensor,
    scale: tf.Tensor,
    gamma: tf.Tensor | None,
    axes: Sequence[int],
    gate: tf.Tensor | None,
) -> Callable[..., tf.Tensor | None]:
    """Returns the map from R(x), R(γ) and R(β) to R(y), or to that of max(y, 0).

    Args:
      normalized: The normalized values x̂.
      scale: The factor r, which broadcasts against x̂.
      gamma: The factor γ, which broadcasts against x̂; None for 1.
      axes: The axes over which the statistics are taken.
      gate: max(y, 0), if its tangent is wanted instead of that of y; or None.

    Returns:
      A function of three tangents, None for zero; those of γ and β may have any shape that
      broadcasts against x̂.
    """
    return _Derivative(normalized, scale, gamma, axes, gate).push


class _Derivative:
    """The map, with what it reads; `derivative` describes the arguments."""

    def __init__(
        self,
        normalized: tf.Tensor,
        scale: tf.Tensor,
        gamma: tf.Tensor | None,
        axes: Sequence[int],
        gate: tf.Tensor | None,
    ) -> None:
        rank = self._rank = normalized.shape.rank
        self._dtype = normalized.dtype
        self._axes = tuple(sorted(axis % rank for axis in axes))
        gamma = tf.ones([1] * rank, self._dtype) if gamma is None else self._spread(gamma)
        self._gate, self._constants = gate, [normalized, scale, gamma]
        self._compiled = paired.pays(normalized.shape)
        over_rows = self._axes == tuple(range(rank - 1))
        self._by_channel = over_rows and _has_channels(gamma.shape)

    def push(
        self,
        t: tf.Tensor | None,
        t_gamma: tf.Tensor | None = None,
        t_beta: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns R(y) from R(x), R(γ) and R(β)."""
        normalized, _, gamma = self._constants
        if t is None:
            terms = [] if t_gamma is None else [self._spread(t_gamma) * normalized]
            terms += [] if t_beta is None else [self._spread(t_beta)]
            return self._gated(tf.broadcast_to(sum(terms[1:], terms[0]), tf.shape(normalized)))
        zero = tf.zeros([1] * self._rank, self._dtype)
        t_gamma = (
            tf.zeros(tf.shape(gamma), self._dtype) if t_gamma is None else self._spread(t_gamma)
        )
        t_beta = zero if t_beta is None else self._spread(t_beta)
        pull = functools.partial(self._pull, t_beta.shape)
        map_of_three = paired.paired(self._push, pull, self._formula, self._constants)
        return map_of_three(t, t_gamma, t_beta)

    def _spread(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(values, [1] * (self._rank - values.shape.rank) + _sizes(values))

    def _gated(self, values: tf.Tensor) -> tf.Tensor:
        if self._gate is None:
            return values
        return tf.raw_ops.ReluGrad(gradients=values, features=self._gate)

    def _formula(self, *arguments: tf.Tensor) -> tf.Tensor:
        t, t_gamma, t_beta, normalized, scale, gamma = arguments
        return self._gated(_push(t, t_gamma, t_beta, normalized, scale, gamma, self._axes))

    def _push(self, *arguments: tf.Tensor) -> tf.Tensor:
        """From the tangents and constants; the transpose is `_pull`."""
        if not self._compiled:
            return self._formula(*arguments)
        t_beta, normalized = arguments[2:4]
        if paired.unwanted():
            return tf.zeros(normalized.shape, normalized.dtype)
        by_channel = self._by_channel and _has_channels(t_beta.shape)
        kernel = _push_by_channel if by_channel else _push_compiled
        return paired.shaped(kernel(*arguments, self._axes, self._gate), normalized.shape)

    def _pull(
        self,
        beta_shape: tf.TensorShape,
        u: tf.Tensor,
        normalized: tf.Tensor,
        scale: tf.Tensor,
        gamma: tf.Tensor,
    ) -> Sequence[tf.Tensor]:
        u = self._gated(u)
        if not self._compiled:
            return _pull(u, normalized, scale, gamma, self._axes, beta_shape)
        by_channel = self._by_channel and _has_channels(beta_shape)
        kernel = _pull_by_channel if by_channel else _pull_compiled
        pulled = kernel(u, normalized, scale, gamma, self._axes, tuple(beta_shape.as_list()))
        shapes = (normalized.shape, gamma.shape, beta_shape)
        return [paired.shaped(a, b) for a, b in zip(pulled, shapes, strict=True)]


def _has_channels(shape: tf.TensorShape) -> bool:
    """Whether there is one entry for each channel, or one for all."""
    return shape.num_elements() in (1, shape[-1])


def _sizes(values: tf.Tensor) -> list[int]:
    return values.shape.as_list()


def _mean(values: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    return tf.reduce_mean(values, axes, keepdims=True)


def _standardize(
    t: tf.Tensor, normalized: tf.Tensor, scale: tf.Tensor, axes: Sequence[int]
) -> tf.Tensor:
    """Returns S t, defined in the module's docstring."""
    return scale * (t - _mean(t, axes) - normalized * _mean(normalized * t, axes))


def _push(
    t: tf.Tensor,
    t_gamma: tf.Tensor,
    t_beta: tf.Tensor,
    normalized: tf.Tensor,
    scale: tf.Tensor,
    gamma: tf.Tensor,
    axes: Sequence[int],
) -> tf.Tensor:
    return gamma * _standardize(t, normalized, scale, axes) + t_gamma * normalized + t_beta


def _pull(
    u: tf.Tensor,
    normalized: tf.Tensor,
    scale: tf.Tensor,
    gamma: tf.Tensor,
    axes: Sequence[int],
    beta_shape: Sequence[int],
) -> _Pulled:
    return (
        _standardize(gamma * u, normalized, scale, axes),
        _sum_to(u * normalized, gamma.shape),
        _sum_to(u, beta_shape),
    )


def _sum_to(values: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Sums to a shape of the same rank, the transpose of broadcasting."""
    return tf.reduce_sum(values, [i for i, size in enumerate(shape) if size == 1], keepdims=True)


def _positive(values: tf.Tensor, gate: tf.Tensor | None) -> tf.Tensor:
    return values if gate is None else tf.where(gate > 0, values, tf.zeros([], values.dtype))


@tf.function(jit_compile=True, autograph=False)
def _push_compiled(
    t: tf.Tensor,
    t_gamma: tf.Tensor,
    t_beta: tf.Tensor,
    normalized: tf.Tensor,
    scale: tf.Tensor,
    gamma: tf.Tensor,
    axes: Sequence[int],
    gate: tf.Tensor | None,
) -> tf.Tensor:
    return _positive(_push(t, t_gamma, t_beta, normalized, scale, gamma, axes), gate)


@tf.function(jit_compile=True, autograph=False)
def _pull_compiled(
    u: tf.Tensor,
    normalized: tf.Tensor,
    scale: tf.Tensor,
    gamma: tf.Tensor,
    axes: Sequence[int],
    beta_shape: Sequence[int],
) -> _Pulled:
    return _pull(u, normalized, scale, gamma, axes, beta_shape)


class _Rows:
    """A tensor as long rows that repeat all channels, the form that XLA sums fastest."""

    def __init__(self, shape: tf.TensorShape) -> None:
        self.channels, size = shape[-1], shape.num_elements()
        entries = self.channels
        while entries < _LANES and size % (2 * entries) == 0:
            entries *= 2
        self._times = entries // self.channels
        self.count = size // self.channels

    def rows(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(values, [-1, self.channels * self._times])

    def repeat(self, values: tf.Tensor) -> tf.Tensor:
        """Repeats one value per channel for a row."""
        values = tf.broadcast_to(tf.reshape(values, [-1]), [self.channels])
        return tf.tile(values, [self._times])

    def sums(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the sum of each channel, [channels]."""
        return tf.reduce_sum(
            tf.reshape(tf.reduce_sum(rows, 0), [self._times, self.channels]), axis=0
        )


@tf.function(jit_compile=True, autograph=False)
def _push_by_channel(
    t: tf.Tensor,
    t_gamma: tf.Tensor,
    t_beta: tf.Tensor,
    normalized: tf.Tensor,
    scale: tf.Tensor,
    gamma: tf.Tensor,
    axes: Sequence[int],
    gate: tf.Tensor | None,
) -> tf.Tensor:
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
def _pull_by_channel(
    u: tf.Tensor,
    normalized: tf.Tensor,
    scale: tf.Tensor,
    gamma: tf.Tensor,
    axes: Sequence[int],
    beta_shape: Sequence[int],
) -> _Pulled:
    del axes
    form = _Rows(u.shape)
    shape, u, normalized = u.shape, form.rows(u), form.rows(normalized)
    to_gamma, to_beta = form.sums(u * normalized), form.sums(u)
    factor = form.repeat(gamma) * form.repeat(scale)
    mean, inner = form.repeat(to_beta / form.count), form.repeat(to_gamma / form.count)
    pulled = tf.reshape(factor * (u - mean - normalized * inner), shape)
    return pulled, _of_channels(to_gamma, gamma.shape), _of_channels(to_beta, beta_shape)


def _of_channels(values: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Reshapes one value per channel, or sums them to a shape with a single value."""
    return tf.reshape(
        tf.reduce_sum(values) if tf.TensorShape(shape).num_elements() == 1 else values, shape
    )
