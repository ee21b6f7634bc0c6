"""The coordinate-wise LSTM: one small network, run on every coordinate of the parameters.

Inputs pass a tanh and two LSTM layers of 4 units (Hochreiter and Schmidhuber 1997; as optimizers,
Andrychowicz et al. 2016) and a dense layer to one number. All coordinates of a kind share one set
of weights, and each keeps its own state, h and c of both layers.

The coordinates lie in blocks, [blocks, features, C] (see `mlhf.layout`). A loop under XLA takes one
block at a time: everything that a block needs stays in cache, which makes it three times as fast as
one operation for all coordinates. Several loops ("lanes") run at the same time, one per core. The
derivative recomputes a block's activations instead of keeping them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

UNITS = 4
STATE = 4 * UNITS
GATES = 4 * UNITS


class LSTMWeights(NamedTuple):
    """One set of weights per kind, stacked along the first axis; 277 numbers each for 3 inputs."""

    kernel1: tf.Tensor  # [kinds, inputs + 4, 16]
    bias1: tf.Tensor  # [kinds, 16]
    kernel2: tf.Tensor  # [kinds, 8, 16]
    bias2: tf.Tensor  # [kinds, 16]
    dense: tf.Tensor  # [kinds, 4]
    dense_bias: tf.Tensor  # [kinds]


class Cotangent(NamedTuple):
    """A cotangent that comes in, and what is wanted of its way back."""

    output: tf.Tensor  # [blocks, C]
    state: tuple[tf.Tensor, ...]  # [blocks of the lane, 16, C] for each lane
    weights: bool  # whether the weights' gradient is wanted
    inputs: tuple[int, ...]  # the inputs whose gradients are wanted


def initial_weights(kinds: int, seed: int, dtype: tf.DType, inputs: int = 3) -> LSTMWeights:
    """Draws weights: Glorot-uniform kernels, zero biases.

    Args:
      kinds: The number of kinds of variables.
      seed: The seed of the random generator.
      dtype: A floating dtype.
      inputs: The number of features of a coordinate.

    Returns:
      The weights.
    """
    generator = np.random.default_rng(seed)

    def glorot(rows: int, columns: int, *shape: int) -> tf.Tensor:
        limit = np.sqrt(6 / (rows + columns))
        return tf.constant(generator.uniform(-limit, limit, shape), dtype)

    return LSTMWeights(
        glorot(inputs + UNITS, GATES, kinds, inputs + UNITS, GATES),
        tf.zeros([kinds, GATES], dtype),
        glorot(2 * UNITS, GATES, kinds, 2 * UNITS, GATES),
        tf.zeros([kinds, GATES], dtype),
        glorot(UNITS, 1, kinds, UNITS),
        tf.zeros([kinds], dtype),
    )


def lanes_of(blocks: int) -> list[int]:
    """Returns how many blocks each lane takes; one lane for a small network."""
    if blocks < 64:
        return [blocks]
    lanes = 1
    while 2 * lanes <= min(os.cpu_count() or 1, 8):
        lanes *= 2
    return [blocks // lanes] * lanes


def zero_state(blocks: int, block: int, dtype: tf.DType) -> tuple[tf.Tensor, ...]:
    """Returns the state at the start of training: [blocks of the lane, 16, C] for each lane."""
    return tuple(tf.zeros([lane, STATE, block], dtype) for lane in lanes_of(blocks))


def apply(
    weights: LSTMWeights,
    kind_of_block: np.ndarray,
    inputs: Sequence[tf.Tensor],
    state: tuple[tf.Tensor, ...],
) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """Runs one step.

    Args:
      weights: The weights of all kinds.
      kind_of_block: The kind of each block, int32 [blocks].
      inputs: A tensor [blocks, C] for each feature.
      state: The state, as `zero_state` returns it.

    Returns:
      The output [blocks, C] before any squashing, and the new state.
    """
    outputs, states = [], []
    for lane, (kinds, features) in zip(
        state, _cut(kind_of_block, inputs, [part.shape[0] for part in state]), strict=True
    ):
        output, new = _apply_lane(tuple(weights), kinds, features, lane)
        outputs.append(output)
        states.append(new)
    return _join(outputs), tuple(states)


def vjp(
    weights: LSTMWeights,
    kind_of_block: np.ndarray,
    inputs: Sequence[tf.Tensor],
    state: tuple[tf.Tensor, ...],
    cotangents: Sequence[Cotangent],
) -> list[tuple[LSTMWeights | None, dict[int, tf.Tensor], tuple[tf.Tensor, ...]]]:
    """Takes cotangents back through one step, several for the price of one recomputation.

    Args:
      weights: As for `apply`.
      kind_of_block: As for `apply`.
      inputs: As for `apply`.
      state: As for `apply`, the state before the step.
      cotangents: The cotangents that come in, and what is wanted of each.

    Returns:
      For each cotangent: the gradient of the weights or None, the gradients of the wanted inputs
      by position, and the cotangent of the state before the step.
    """
    lanes = [part.shape[0] for part in state]
    wants = tuple((c.weights, c.inputs) for c in cotangents)
    pieces = [_cut(kind_of_block, [c.output], lanes) for c in cotangents]
    per_lane = [
        _vjp_lane(wants)(
            tuple(weights),
            kinds,
            features,
            lane,
            [piece[number][1][0] for piece in pieces],
            [c.state[number] for c in cotangents],
        )
        for number, (lane, (kinds, features)) in enumerate(
            zip(state, _cut(kind_of_block, inputs, lanes), strict=True)
        )
    ]
    results = []
    for position, cotangent in enumerate(cotangents):
        lane_results = [lane[position] for lane in per_lane]
        gradient = None
        if cotangent.weights:
            parts = zip(*[result[0] for result in lane_results], strict=True)
            gradient = LSTMWeights(*[tf.add_n(list(part)) for part in parts])
        wanted = {
            i: _join([result[1][order] for result in lane_results])
            for order, i in enumerate(cotangent.inputs)
        }
        results.append((gradient, wanted, tuple(result[2] for result in lane_results)))
    return results


def _cut(
    kind_of_block: np.ndarray, inputs: Sequence[tf.Tensor], lanes: list[int]
) -> list[tuple[tf.Tensor, tuple[tf.Tensor, ...]]]:
    """Cuts kinds and inputs into lanes; along the first axis this copies nothing."""
    if len(lanes) == 1:
        return [(tf.constant(kind_of_block), tuple(inputs))]
    columns = zip(*[tf.split(value, lanes) for value in inputs], strict=True)
    edges = np.cumsum(lanes)[:-1]
    return [
        (tf.constant(kinds), features)
        for kinds, features in zip(np.split(kind_of_block, edges), columns, strict=True)
    ]


def _join(parts: list[tf.Tensor]) -> tf.Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, 0)


class _Layer(NamedTuple):
    """The activations of one layer on one block; each [4, C]."""

    input_gate: tf.Tensor
    forget_gate: tf.Tensor
    output_gate: tf.Tensor
    candidate: tf.Tensor
    squashed: tf.Tensor  # tanh of the new cell


# σ(z) = (1 + tanh(z/2))/2, so that all gates of a block are one tanh. The 1 that is added to the
# forget gate is a constant, not a parameter. The gates' order is input, forget, output, candidate.
_HALVES = np.repeat([0.5, 0.5, 0.5, 1.0], UNITS)[:, None]
_FORGET = np.repeat([0.0, 0.5, 0.0, 0.0], UNITS)[:, None]


def _layer(
    kernel: tf.Tensor, bias: tf.Tensor, values: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, _Layer]:
    halves = tf.constant(_HALVES, values.dtype)
    drive = tf.matmul(kernel, tf.concat([values, hidden], 0), transpose_a=True) + bias[:, None]
    squashed = tf.tanh(halves * drive + tf.constant(_FORGET, values.dtype))
    gates = 0.5 + 0.5 * squashed[: 3 * UNITS]
    i, f, o = gates[:UNITS], gates[UNITS : 2 * UNITS], gates[2 * UNITS :]
    candidate = squashed[3 * UNITS :]
    new_cell = f * cell + i * candidate
    tanh_cell = tf.tanh(new_cell)
    return o * tanh_cell, new_cell, _Layer(i, f, o, candidate, tanh_cell)


def _layer_vjp(
    kernel: tf.Tensor,
    values: tf.Tensor,
    hidden: tf.Tensor,
    cell: tf.Tensor,
    layer: _Layer,
    d_hidden: tf.Tensor,
    d_cell: tf.Tensor,
    weights: bool,
) -> tuple[tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor, tf.Tensor]:
    i, f, o, candidate, squashed = layer
    d_cell = d_cell + d_hidden * o * (1 - squashed * squashed)
    d_drive = tf.concat(
        [
            d_cell * candidate * i * (1 - i),
            d_cell * cell * f * (1 - f),
            d_hidden * squashed * o * (1 - o),
            d_cell * i * (1 - candidate * candidate),
        ],
        0,
    )
    gradient: tuple[tf.Tensor, ...] = ()
    if weights:
        features = tf.concat([values, hidden], 0)
        gradient = (
            tf.matmul(features, d_drive, transpose_b=True),
            tf.reduce_sum(d_drive, 1),
        )
    back = tf.matmul(kernel, d_drive)
    count = values.shape[0]
    return gradient, back[:count], back[count:], d_cell * f


def _forward_block(
    weights: Sequence[tf.Tensor], features: tf.Tensor, state: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tuple[Any, ...]]:
    values = tf.tanh(features)
    h1, c1, layer1 = _layer(weights[0], weights[1], values, state[:4], state[4:8])
    h2, c2, layer2 = _layer(weights[2], weights[3], h1, state[8:12], state[12:])
    output = tf.linalg.matvec(h2, weights[4], transpose_a=True) + weights[5]
    return output, tf.concat([h1, c1, h2, c2], 0), (values, h1, h2, layer1, layer2)


def _vjp_block(
    weights: Sequence[tf.Tensor],
    state: tf.Tensor,
    kept: tuple[Any, ...],
    d_output: tf.Tensor,
    d_state: tf.Tensor,
    want: tuple[bool, tuple[int, ...]],
) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
    values, h1, h2, layer1, layer2 = kept
    want_weights, want_inputs = want
    d_h2 = d_state[8:12] + weights[4][:, None] * d_output
    gradient2, d_h1, back2, d_c2 = _layer_vjp(
        weights[2], h1, state[8:12], state[12:], layer2, d_h2, d_state[12:], want_weights
    )
    gradient1, d_values, back1, d_c1 = _layer_vjp(
        weights[0],
        values,
        state[:4],
        state[4:8],
        layer1,
        d_h1 + d_state[:4],
        d_state[4:8],
        want_weights,
    )
    gradient: list[tf.Tensor] = []
    if want_weights:
        dense = tf.linalg.matvec(h2, d_output)
        gradient = [*gradient1, *gradient2, dense, tf.reduce_sum(d_output)]
    inputs = [d_values[i] * (1 - values[i] * values[i]) for i in want_inputs]
    return gradient, inputs, tf.concat([back1, d_c1, back2, d_c2], 0)


def _array(like: tf.Tensor, *shape: int) -> tf.TensorArray:
    return tf.TensorArray(like.dtype, size=like.shape[0], element_shape=shape)


def _of_block(weights: Sequence[tf.Tensor], kind: tf.Tensor) -> list[tf.Tensor]:
    return [tf.gather(value, kind) for value in weights]


@tf.function(jit_compile=True, autograph=False)
def _apply_lane(
    weights: tuple[tf.Tensor, ...], kinds: tf.Tensor, inputs: Sequence[tf.Tensor], state: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    blocks, _, block = state.shape

    def body(i: tf.Tensor, outputs: tf.TensorArray, states: tf.TensorArray) -> tuple[Any, ...]:
        features = tf.stack([value[i] for value in inputs])
        output, new, _ = _forward_block(_of_block(weights, kinds[i]), features, state[i])
        return i + 1, outputs.write(i, output), states.write(i, new)

    _, outputs, states = tf.while_loop(
        lambda i, *_: i < blocks,
        body,
        (0, _array(state, block), _array(state, STATE, block)),
        maximum_iterations=blocks,
    )
    return outputs.stack(), states.stack()


_VJP_LANES: dict[Any, Any] = {}


def _vjp_lane(
    wants: tuple[tuple[bool, tuple[int, ...]], ...],
) -> Callable[..., list[tuple[Any, ...]]]:
    """Returns the compiled derivative for what is wanted; each combination is compiled once."""
    if wants in _VJP_LANES:
        return _VJP_LANES[wants]

    @tf.function(jit_compile=True, autograph=False)
    def lane(
        weights: tuple[tf.Tensor, ...],
        kinds: tf.Tensor,
        inputs: Sequence[tf.Tensor],
        state: tf.Tensor,
        d_outputs: list[tf.Tensor],
        d_states: list[tf.Tensor],
    ) -> list[tuple[Any, ...]]:
        blocks, _, block = state.shape

        def body(
            i: tf.Tensor,
            gradients: list[list[tf.Tensor]],
            d_inputs: list[list[tf.TensorArray]],
            d_befores: list[tf.TensorArray],
        ) -> tuple[Any, ...]:
            block_weights = _of_block(weights, kinds[i])
            features = tf.stack([value[i] for value in inputs])
            _, _, kept = _forward_block(block_weights, features, state[i])
            chosen = tf.one_hot(kinds[i], weights[0].shape[0], dtype=state.dtype)
            for position, want in enumerate(wants):
                d_output, d_state = d_outputs[position][i], d_states[position][i]
                gradient, back, before = _vjp_block(
                    block_weights, state[i], kept, d_output, d_state, want
                )
                gradients[position] = [
                    total + tf.tensordot(chosen, part, 0)
                    for total, part in zip(gradients[position], gradient, strict=True)
                ]
                d_inputs[position] = [
                    array.write(i, value)
                    for array, value in zip(d_inputs[position], back, strict=True)
                ]
                d_befores[position] = d_befores[position].write(i, before)
            return i + 1, gradients, d_inputs, d_befores

        start = (
            0,
            [[tf.zeros_like(w) for w in weights] if want[0] else [] for want in wants],
            [[_array(state, block) for _ in want[1]] for want in wants],
            [_array(state, STATE, block) for _ in wants],
        )
        _, gradients, d_inputs, d_befores = tf.while_loop(
            lambda i, *_: i < blocks, body, start, maximum_iterations=blocks
        )
        return [
            (gradient, [array.stack() for array in arrays], before.stack())
            for gradient, arrays, before in zip(gradients, d_inputs, d_befores, strict=True)
        ]

    _VJP_LANES[wants] = lane
    return lane
