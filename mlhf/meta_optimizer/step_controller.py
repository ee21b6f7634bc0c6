"""The controller of a step: a 2-layer LSTM run for each tensor, and a linear map of what it sees.

It sees scalars: how far training is, how noisy slopes are, whether the loss falls as predicted. It
says by how much the rule of `mlhf.CurvatureMuon` is to be multiplied: the length of the whole step,
those of the tensors, and the momentum. Weights that are zero say nothing: the rule as it stands.

A row stands for each tensor, after one for the step as a whole. Rows of a kind share their weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlhf.optimizers.curvature_length import Measurements
from mlhf.optimizers.curvature_muon import Choices, Seen
from mlhf.optimizers.orthogonalization import Matrix
from mlhf.optimizers.predicted_decrease import correction

KINDS = ("step", "first", "hidden", "last", "vector")
# What every row sees: 1, t/T, ln T, ln B, noise, whether the loss falls as predicted, its fall,
# whether this is the rise at the start, and the last rate and the newest quotient Σσ / Σκ beside
# that of the first steps.
COMMON = 10
# And its own: what is left of its slope on the next batch, its share of the slope, the length of
# its last step beside its norm, and its size.
OWN = 4
UNITS = 8
_FEATURES = len(KINDS) + COMMON + OWN
# What lies outside counts as the nearest that a controller is meta-trained on.
_HORIZONS, _BATCHES, _SIZES = (20.0, 1000.0), (16.0, 4096.0), (4.0, 4e6)
# Multiples stay within e^±2, and 1 - μ within a factor of 5 of 0.1.
_LARGEST = 2.0
_LARGEST_MOMENTUM = math.log(5.0)


class ControllerWeights(NamedTuple):
    """The weights of a controller, float32."""

    lengths: Any  # [kinds, COMMON + OWN]: ln of the multiple, by what a row sees
    momentum: Any  # [COMMON]: -ln((1 - μ) / (1 - μ₀))
    kernel_1: Any  # [features + UNITS, 4 UNITS]
    bias_1: Any  # [4 UNITS]
    kernel_2: Any  # [2 UNITS, 4 UNITS]
    bias_2: Any  # [4 UNITS]
    outputs: Any  # [UNITS, 2]: to ln of the multiple, and of momentum


class ControllerState(NamedTuple):
    """What a controller remembers between steps."""

    lstm: tf.Tensor  # [rows, 4 UNITS]: h and c of both layers
    slopes: tf.Tensor  # [leaves], s of the last step
    mean_slopes: tf.Tensor  # [leaves], averages of s
    mean_next_slopes: tf.Tensor  # [leaves], averages of the slopes on the batches after
    first_quotient: tf.Tensor  # Σσ / Σκ of the first steps; 0 before


def neutral_weights(seed: int = 0) -> ControllerWeights:
    """Returns weights that say nothing: random kernels of the LSTM, and zeros that read it.

    Args:
      seed: The seed of the kernels.
    """
    random = np.random.default_rng(seed)

    def kernel(rows: int) -> np.ndarray:
        return random.normal(0, rows**-0.5, (rows, 4 * UNITS)).astype(np.float32)

    # Forget gates that are open at the start.
    bias = np.repeat(np.array([0, 1, 0, 0], np.float32), UNITS)
    return ControllerWeights(
        np.zeros([len(KINDS), COMMON + OWN], np.float32),
        np.zeros([COMMON], np.float32),
        kernel(_FEATURES + UNITS),
        bias,
        kernel(2 * UNITS),
        bias,
        np.zeros([UNITS, 2], np.float32),
    )


def initial_state(leaves: int, dtype: tf.DType) -> ControllerState:
    """Returns the state before the first step of a network of so many tensors."""
    zeros = tf.zeros([leaves], dtype)
    lstm = tf.zeros([leaves + 1, 4 * UNITS], dtype)
    return ControllerState(lstm, zeros, zeros, zeros, tf.zeros([], dtype))


def kinds_of(forms: Sequence[Matrix | None]) -> list[int]:
    """Returns the place in `KINDS` of each row."""
    kernels = [place for place, form in enumerate(forms) if form is not None]
    kinds = [KINDS.index("step")]
    for place, form in enumerate(forms):
        if form is None:
            kind = "vector"
        elif place == kernels[-1]:
            kind = "last"
        else:
            kind = "first" if place == kernels[0] else "hidden"
        kinds.append(KINDS.index(kind))
    return kinds


def choose(
    weights: ControllerWeights,
    state: ControllerState,
    seen: Seen,
    tensors: Sequence[tf.Tensor],
    directions: Sequence[tf.Tensor],
    forms: Sequence[Matrix | None],
    horizon: int,
    batch: int | tf.Tensor,
    rise: float,
    momentum: float,
) -> tuple[Choices, ControllerState]:
    """Returns what a step does differently, and the state after.

    Args:
      weights: The controller's weights.
      state: Its state before the step; `slopes` are those of the last step.
      seen: What is known of the step before.
      tensors: The parameters before the step.
      directions: u of the last step, by tensor.
      forms: The tensors' forms as matrices, in the order of the tensors.
      horizon: T.
      batch: B, the number of examples.
      rise: The number of steps at the start whose length curvature sets.
      momentum: μ₀, the momentum that nothing said stands for.

    Returns:
      The choices and the new state, with `slopes` as they were: the step has not been taken.
    """
    dtype = seen.count.dtype
    weights = ControllerWeights(*[tf.cast(weight, dtype) for weight in weights])
    kinds = kinds_of(forms)
    # Averages over about a fifth of the steps so far.
    new = 1 / tf.maximum(seen.count / 5, 1.0)
    next_slopes = tf.stack(seen.next_slopes)
    is_first = seen.count < 1.5
    means = [
        tf.where(is_first, before, before + new * (value - before))
        for before, value in (
            (state.mean_slopes, state.slopes),
            (state.mean_next_slopes, next_slopes),
        )
    ]
    first_quotient = _first_quotient(seen, state.first_quotient)
    common = tf.concat(
        [
            _common(seen, horizon, batch, rise),
            _beside_first(seen, first_quotient, horizon),
        ],
        0,
    )
    rate = seen.measurements.last_rate
    own = tf.concat([_slopes_own(*means), _steps_own(tensors, directions, rate)], 1)
    sees = tf.concat([tf.tile(common[None], [len(kinds), 1]), own], 1)
    one_hot = tf.one_hot(kinds, len(KINDS), dtype=dtype)
    hidden, lstm = _lstm(weights, tf.concat([one_hot, sees], 1), state.lstm)
    read = tf.matmul(hidden, weights.outputs)
    lengths = tf.reduce_sum(tf.gather(weights.lengths, kinds) * sees, 1) + read[:, 0]
    multiples = tf.unstack(tf.exp(_bounded(lengths, _LARGEST)))
    steadier = tf.reduce_sum(weights.momentum * common) + read[0, 1]
    mu = 1 - (1 - momentum) * tf.exp(-_bounded(steadier, _LARGEST_MOMENTUM))
    choices = Choices(multiples[0], mu, multiples[1:], None)
    after = ControllerState(lstm, state.slopes, means[0], means[1], first_quotient)
    return choices, after


def _bounded(x: tf.Tensor, largest: float) -> tf.Tensor:
    return largest * tf.tanh(x / largest)


def _common(seen: Seen, horizon: int, batch: int | tf.Tensor, rise: float) -> tf.Tensor:
    """Returns what every row sees of the training so far, [8], in numbers of about 1."""
    one = tf.ones_like(seen.count)
    decrease = seen.decrease
    is_sound = (decrease.loss > 0) & (decrease.first_loss > 0)
    fall = tf.where(is_sound, decrease.loss, one) / tf.where(is_sound, decrease.first_loss, one)
    return tf.stack(
        [
            one,
            2 * (seen.count - 1) / horizon - 1,
            one * float(np.log(np.clip(horizon, *_HORIZONS) / 150)) / 2,
            tf.math.log(tf.clip_by_value(tf.cast(batch, one.dtype), *_BATCHES) / 256) / 2,
            tf.math.log(_kept(seen.measurements)) + 1,
            correction(decrease),
            tf.clip_by_value(tf.math.log(tf.maximum(fall, 1e-3)), -4, 1) / 2 + 0.5,
            tf.cast(seen.count <= rise, one.dtype),
        ]
    )


def _kept(measurements: Measurements) -> tf.Tensor:
    """Returns the share of the slope that other batches show, between 0.02 and 1."""
    is_known = measurements.slope > 0
    one = tf.ones_like(measurements.slope)
    share = tf.where(is_known, measurements.signal, one) / tf.where(
        is_known, measurements.slope, one
    )
    return tf.clip_by_value(share, 0.02, 1.0)


def _first_quotient(seen: Seen, before: tf.Tensor) -> tf.Tensor:
    """Returns Σσ / Σκ of the first three steps, or of those that there are."""
    measured = seen.measurements
    is_new = (seen.count < 4.5) & (measured.slope > 0) & (measured.curvature > 0)
    return tf.where(is_new, _quotient(measured), before)


def _quotient(measurements: Measurements) -> tf.Tensor:
    quotient = tf.math.divide_no_nan(tf.nn.relu(measurements.slope), measurements.curvature)
    return _kept(measurements) * quotient


def _beside_first(seen: Seen, first_quotient: tf.Tensor, horizon: int) -> tf.Tensor:
    """Returns how long steps are, and may be, beside what curvature said at first, [2].

    Curvature grows where steps are short and falls where they are long (Cohen et al. 2021), so the
    quotient of today says little about the length; that of the first steps has not been moved yet.
    """
    # The rate without its fall: the controller sees t/T.
    remaining = tf.maximum(horizon + 2 - seen.count, 1.0) / horizon
    values = tf.stack([seen.measurements.last_rate / remaining, _quotient(seen.measurements)])
    is_known = (values > 0) & (first_quotient > 0)
    one = tf.ones_like(values)
    ratios = tf.where(is_known, values, one) / tf.where(is_known, first_quotient, one)
    return tf.clip_by_value(tf.math.log(ratios), -5, 5) / 2


def _steps_own(
    tensors: Sequence[tf.Tensor], directions: Sequence[tf.Tensor], rate: tf.Tensor
) -> tf.Tensor:
    """Returns how far the last step moved, and how many numbers there are, [rows, 2].

    The step as a whole is the first row.
    """
    sizes = [float(tensor.shape.num_elements()) for tensor in tensors]
    squares, moves = (
        tf.stack([tf.reduce_sum(tf.square(tensor)) for tensor in some])
        for some in (tensors, directions)
    )
    squares, moves = (
        tf.sqrt(tf.concat([tf.reduce_sum(some)[None], some], 0)) for some in (squares, moves)
    )
    moves *= rate
    # A share, since biases begin at zero.
    share = tf.math.divide_no_nan(moves, moves + squares)
    has_moved = share > 0
    change = tf.math.log(tf.where(has_moved, tf.maximum(share, 1e-4), tf.ones_like(share)))
    change = tf.where(has_moved, (change + 4) / 2, tf.zeros_like(change))
    size = np.log(np.clip([sum(sizes), *sizes], *_SIZES) / 4096) / 4
    return tf.stack([change, tf.constant(size, share.dtype)], 1)


def _slopes_own(slopes: tf.Tensor, next_slopes: tf.Tensor) -> tf.Tensor:
    """Returns what rows see of their slopes, [rows, 2]; zeros for the step as a whole."""
    total = tf.reduce_sum(tf.abs(slopes))
    kept = tf.clip_by_value(tf.math.divide_no_nan(next_slopes, tf.abs(slopes)), -1, 1)
    share = tf.math.divide_no_nan(slopes, total) * tf.cast(tf.size(slopes), slopes.dtype)
    share = tf.math.log(tf.clip_by_value(share, 0.02, 50.0)) / 2
    own = tf.where(
        total > 0, tf.stack([kept, share], 1), tf.zeros([slopes.shape[0], 2], total.dtype)
    )
    return tf.concat([tf.zeros([1, 2], own.dtype), own], 0)


def _lstm(
    weights: ControllerWeights, inputs: tf.Tensor, state: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    h_1, c_1, h_2, c_2 = tf.split(state, 4, 1)
    h_1, c_1 = _cell(tf.concat([inputs, h_1], 1), c_1, weights.kernel_1, weights.bias_1)
    h_2, c_2 = _cell(tf.concat([h_1, h_2], 1), c_2, weights.kernel_2, weights.bias_2)
    return h_2, tf.concat([h_1, c_1, h_2, c_2], 1)


def _cell(
    inputs: tf.Tensor, c: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    enters, kept, leaves, new = tf.split(tf.matmul(inputs, kernel) + bias, 4, 1)
    c = tf.sigmoid(kept) * c + tf.sigmoid(enters) * tf.tanh(new)
    return tf.sigmoid(leaves) * tf.tanh(c), c
