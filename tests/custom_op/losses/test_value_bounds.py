"""Bounds of values from what they come from: never too narrow, and narrow where it counts."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from custom_op.losses import activations, value_bounds

Z = np.random.default_rng(0).normal(0, 3, (4, 4, 4, 3))
FLAT = Z.reshape(-1, 3)
INF = math.inf


def soft(z):
    return tf.nn.softmax(z)


CASES = {
    # what is made of probabilities
    "other axis": (lambda z: tf.nn.softmax(z, axis=1), (0, 1)),
    "pooled": (lambda z: tf.nn.avg_pool2d(soft(z), 2, 2, "SAME"), (0, 1)),
    "highest": (lambda z: tf.reduce_max(tf.sigmoid(z), -1, keepdims=True), (0, 1)),
    "resized": (lambda z: tf.image.resize(soft(z), [8, 8], "nearest"), (0, 1)),
    "cropped": (lambda z: soft(z)[:, 1:3, 1:3], (0, 1)),
    "gathered": (lambda z: tf.gather(soft(z), [2, 0, 1], axis=-1), (0, 1)),
    "padded": (lambda z: tf.pad(soft(z), [[0, 0], [0, 0], [0, 0], [1, 0]]), (0, 1)),
    "both sides": (lambda z: tf.concat([1 - tf.sigmoid(z), tf.sigmoid(z)], -1), (0, 1)),
    "product": (lambda z: tf.sigmoid(z) * tf.sigmoid(-z), (0, 1)),
    "chosen": (lambda z: tf.where(z > 0, soft(z), tf.zeros_like(z)), (0, 1)),
    "chosen constants": (lambda z: tf.where(z > 0, tf.sigmoid(z), 0.0), (0, 1)),
    "filled": (lambda z: tf.maximum(tf.sigmoid(z), tf.fill(tf.shape(z), np.float64(0))), (0, 1)),
    "split": (lambda z: tf.split(soft(z), 3, -1)[1], (0, 1)),
    "unstacked": (lambda z: tf.unstack(soft(z), axis=-1)[1], (0, 1)),
    "mixed": (lambda z: 0.25 * soft(z) + 0.75 * soft(-z), (0, 1)),
    "hard": (keras.activations.hard_sigmoid, (0, 1)),
    "half": (lambda z: (tf.tanh(z) + 1) / 2, (0, 1)),
    "written down": (lambda z: 1 / (1 + tf.exp(-z)), (0, 1)),
    "exponential": (lambda z: tf.exp(tf.nn.log_softmax(z)), (0, 1)),
    "clipped": (lambda z: tf.clip_by_value(z, 0.1, 0.9), (0.1, 0.9)),
    "function": (tf.function(lambda z: tf.sigmoid(z)), (0, 1)),
    "booleans": (lambda z: tf.cast(z > 0, z.dtype), (0, 1)),
    # what is not
    "logits": (lambda z: 2 * z, (-INF, INF)),
    "signed": (tf.tanh, (-1, 1)),
    "scaled": (lambda z: 10 * tf.sigmoid(z), (0, 10)),
    "centered": (lambda z: tf.sigmoid(z) - 0.5, (-0.5, 0.5)),
    "negative scale": (lambda z: -3 * tf.sigmoid(z), (-3, 0)),
    "sum": (lambda z: tf.reduce_sum(tf.sigmoid(z), [1, 2]), (0, 16)),
    "rates": (lambda z: tf.nn.relu(z) + 1, (1, INF)),
    "six": (tf.nn.relu6, (0, 6)),
    "absolute": (lambda z: tf.abs(tf.tanh(z) - 3), (2, 4)),
    "between signs": (lambda z: 1 / tf.tanh(z), (-INF, INF)),
    "matrix": (lambda z: tf.sigmoid(z) @ tf.ones([3, 2], z.dtype), (-INF, INF)),
    "zero times infinity": (lambda z: 0 * tf.exp(z), (0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_bounds(name):
    function, expected = CASES[name]
    found = []

    @tf.function(autograph=False)
    def run(z):
        outputs = function(z)
        found.append(value_bounds.bounds_of(outputs))
        return outputs

    values = run(tf.constant(Z)).numpy()
    ((low, high),) = found
    assert low <= values.min() + 1e-12 and values.max() - 1e-12 <= high
    np.testing.assert_allclose((low, high), expected, atol=1e-12)


def test_a_deep_network_is_looked_at_from_its_end_alone():
    found = []

    @tf.function(autograph=False)
    def run(z):
        for _ in range(1500):
            z = z + 1.0
        assert activations.ends_in(z) is None
        found.append(value_bounds.bounds_of(z))
        found.append(value_bounds.bounds_of(tf.sigmoid(z)))
        return z

    run(tf.constant(FLAT))
    assert found == [(-INF, INF), (0.0, 1.0)]
