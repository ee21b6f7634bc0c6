"""The coordinate-wise LSTM against NumPy, forwards and backwards."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf.meta_optimizer import coordinate_lstm
from mlhf.meta_optimizer.coordinate_lstm import Cotangent, LSTMWeights
from tests.mlhf import reference

# Four blocks of five coordinates, of two kinds.
BLOCK = 5
KIND_OF_BLOCK = np.array([0, 1, 1, 1], np.int32)
BLOCKS = len(KIND_OF_BLOCK)
COUNTS = [5, 15]
N = BLOCKS * BLOCK


def draw(seed=0):
    """Weights, inputs [3, N], a state [N, 16]."""
    random = np.random.default_rng(seed)
    initial = coordinate_lstm.initial_weights(2, seed, tf.float64)._asdict()
    theta = {
        name: np.asarray(value) + 0.4 * random.normal(size=value.shape)
        for name, value in initial.items()
    }
    return theta, random.normal(size=(3, N)), 0.5 * random.normal(size=(N, 16))


def to_state(state, lanes):
    """[N, 16] as blocks [blocks of the lane, 16, C] a lane."""
    blocks = tf.constant(state.reshape(BLOCKS, BLOCK, 16).transpose(0, 2, 1))
    return tuple(tf.split(blocks, lanes))


def from_state(state):
    return tf.concat(state, 0).numpy().transpose(0, 2, 1).reshape(N, 16)


def to_blocks(vector):
    return tf.constant(vector.reshape(BLOCKS, BLOCK))


def as_weights(theta):
    return LSTMWeights(**{name: tf.constant(value) for name, value in theta.items()})


LANES = pytest.mark.parametrize("lanes", [[4], [2, 2]], ids=str)


@LANES
def test_forward(lanes):
    theta, inputs, state = draw()
    output, new = coordinate_lstm.apply(
        as_weights(theta), KIND_OF_BLOCK, [to_blocks(row) for row in inputs], to_state(state, lanes)
    )
    right, right_state = reference.lstm(theta, inputs, state, COUNTS)
    np.testing.assert_allclose(output.numpy().reshape(-1), right, rtol=1e-12)
    np.testing.assert_allclose(from_state(new), right_state, rtol=1e-12)


@LANES
def test_derivative(lanes):
    theta, inputs, state = draw()
    random = np.random.default_rng(1)
    # Two cotangents at once: one wants everything, the other two of the inputs.
    asked = [(True, (0, 1, 2)), (False, (1,))]
    cotangents = [(random.normal(size=N), random.normal(size=(N, 16))) for _ in asked]
    found = coordinate_lstm.vjp(
        as_weights(theta),
        KIND_OF_BLOCK,
        [to_blocks(row) for row in inputs],
        to_state(state, lanes),
        [
            Cotangent(to_blocks(output), to_state(before, lanes), *want)
            for (output, before), want in zip(cotangents, asked, strict=True)
        ],
    )
    for (u, v), (weights, wanted), (gradient, d_inputs, d_state) in zip(
        cotangents, asked, found, strict=True
    ):

        def derivative(theta, inputs, state, u=u, v=v):
            output, new = reference.lstm(theta, inputs, state, COUNTS)
            value = output @ u + (new * v).sum((-2, -1))
            return value.imag / reference.STEP

        assert (gradient is not None) == weights
        for name, value in theta.items() if weights else ():
            units = np.eye(value.size).reshape(value.size, *value.shape)
            moved = {**theta, name: value + 1j * reference.STEP * units}
            right = derivative(moved, inputs, state).reshape(value.shape)
            np.testing.assert_allclose(getattr(gradient, name), right, rtol=1e-10, atol=1e-12)
        assert set(d_inputs) == set(wanted)
        for i in wanted:
            moved = [row + np.zeros((N, N)) for row in inputs]
            moved[i] = inputs[i] + 1j * reference.STEP * np.eye(N)
            right = derivative(theta, moved, state)
            np.testing.assert_allclose(
                d_inputs[i].numpy().reshape(-1), right, rtol=1e-10, atol=1e-13
            )
        units = np.eye(N * 16).reshape(N * 16, N, 16)
        right = derivative(theta, inputs, state + 1j * reference.STEP * units).reshape(N, 16)
        np.testing.assert_allclose(from_state(d_state), right, rtol=1e-10, atol=1e-13)


def test_number_and_range_of_the_initial_weights():
    weights = coordinate_lstm.initial_weights(3, 5, tf.float32)
    assert sum(value[0].numpy().size for value in weights) == 277
    assert weights.kernel1.shape == (3, 3 + 4, 16)
    assert weights.kernel2.shape == (3, 4 + 4, 16)
    assert weights.dense.shape == (3, 4)
    assert all(value.dtype == tf.float32 for value in weights)
    for bias in (weights.bias1, weights.bias2, weights.dense_bias):
        assert not np.any(bias)
    for kernel, limit in (
        (weights.kernel1, np.sqrt(6 / (7 + 16))),
        (weights.kernel2, np.sqrt(6 / (8 + 16))),
        (weights.dense, np.sqrt(6 / (4 + 1))),
    ):
        assert 0.7 * limit < np.max(np.abs(kernel)) <= limit
    # Kinds and seeds differ, the same seed does not.
    assert np.all(weights.kernel1[0] != weights.kernel1[1])
    same, other = (coordinate_lstm.initial_weights(3, seed, tf.float32) for seed in (5, 6))
    assert np.all(same.kernel1 == weights.kernel1)
    assert np.all(other.kernel1 != weights.kernel1)


def test_forget_bias_is_one():
    theta, inputs, _ = draw()
    zeros = LSTMWeights(**{name: tf.zeros_like(value) for name, value in theta.items()})
    state = np.ones((N, 16))
    _, new = coordinate_lstm.apply(
        zeros, KIND_OF_BLOCK, [to_blocks(row) for row in inputs], to_state(state, [4])
    )
    # With zero drives the input gate lets tanh(0) in, and the forget gate σ(1) of the cell stay.
    cells = from_state(new)[:, [4, 5, 6, 7, 12, 13, 14, 15]]
    np.testing.assert_allclose(cells, 1 / (1 + np.exp(-1)), rtol=1e-14)


def test_zero_inputs_give_zero_at_first():
    weights = coordinate_lstm.initial_weights(2, 0, tf.float64)
    output, _ = coordinate_lstm.apply(
        weights,
        KIND_OF_BLOCK,
        [tf.zeros([BLOCKS, BLOCK], tf.float64)] * 3,
        coordinate_lstm.zero_state(BLOCKS, BLOCK, tf.float64),
    )
    assert not np.any(output)


def test_lanes_share_the_blocks_of_a_large_network(monkeypatch):
    for cores, lanes in ((1, 1), (2, 2), (3, 2), (6, 4), (64, 8)):
        monkeypatch.setattr(coordinate_lstm.os, "cpu_count", lambda cores=cores: cores)
        assert coordinate_lstm.lanes_of(63) == [63]
        assert coordinate_lstm.lanes_of(64) == [64 // lanes] * lanes
        assert sum(coordinate_lstm.lanes_of(720)) == 720
