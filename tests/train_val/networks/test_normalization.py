"""The project's batch normalisation against Keras' own and against finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
from train_val.networks.normalization import ExactBatchNormalization

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4, 3, 2, 5)) * 2 + 1
GAMMA, BETA = RANDOM.normal(size=(2, 5))
TARGET = RANDOM.normal(size=X.shape)


def layer(axis=-1):
    made = ExactBatchNormalization(axis, dtype="float64")
    made.build(X.shape)
    made.set_weights([GAMMA, BETA, np.full(5, 0.3), np.full(5, 2.0)])
    return made


@pytest.mark.parametrize("training", [True, False])
def test_values_and_moving_statistics_are_those_of_keras(training):
    own = layer()
    stock = keras.layers.BatchNormalization(momentum=0.997, epsilon=1e-5, dtype="float64")
    stock.build(X.shape)
    stock.set_weights(own.get_weights())
    # float32 is what Keras computes statistics in.
    np.testing.assert_allclose(own(X, training=training), stock(X, training=training), rtol=1e-5)
    for a, b in zip(own.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    moved = own.get_weights()[2]
    expected = 0.997 * 0.3 + 0.003 * X.mean((0, 1, 2)) if training else np.full(5, 0.3)
    np.testing.assert_allclose(moved, expected, rtol=1e-12)


def test_second_derivatives_are_right():
    own = layer()

    def loss(x):
        return tf.reduce_sum(tf.sin(own(x, training=True)) * TARGET)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x)
        return tape.gradient(value, x)

    x, v = tf.constant(X), tf.constant(RANDOM.normal(size=X.shape))
    step = 1e-6
    expected = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)

    @tf.function
    def compiled(x, v):
        return custom_op.jvp(gradient, x, v)[1]

    np.testing.assert_allclose(compiled(x, v), expected, rtol=1e-6, atol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(x)
        slope = tf.reduce_sum(gradient(x) * v)
    np.testing.assert_allclose(tape.gradient(slope, x), expected, rtol=1e-6, atol=1e-6)


def test_channels_may_stand_first():
    moved = np.moveaxis(X, -1, 1)
    made = ExactBatchNormalization(1, dtype="float64")
    made.build(moved.shape)
    made.set_weights([GAMMA, BETA, np.zeros(5), np.ones(5)])
    np.testing.assert_allclose(
        np.moveaxis(made(moved, training=True), 1, -1), layer()(X, training=True), rtol=1e-12
    )


def test_a_layer_is_made_again_from_its_config():
    made = ExactBatchNormalization(1, 0.9, 1e-3, name="here")
    again = ExactBatchNormalization.from_config(made.get_config())
    assert (again.axis, again.momentum, again.epsilon, again.name) == (1, 0.9, 1e-3, "here")
