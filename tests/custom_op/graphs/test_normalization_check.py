"""Second derivatives of the stock normalisations, which TensorFlow gets wrong, and who has them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.graphs.normalization_check import stopped_means

_random = np.random.default_rng(11)
X, V, W, Z = (tf.constant(_random.normal(size=(3, 4, 2))) for _ in range(4))
WEIGHTS = tf.constant(_random.normal(size=(3, 4, 2)))


def _keras_layer(layer, **settings):
    layer = layer(dtype="float64")
    layer.build(X.shape)
    parameters = [variable.value for variable in layer.trainable_variables]
    state = [variable.value for variable in layer.non_trainable_variables]
    return lambda x: layer.stateless_call(parameters, state, x, **settings)[0]


def _by_moments(x):
    mean, variance = tf.nn.moments(x, [0, 1])
    return (x - mean) * tf.math.rsqrt(variance + 0.1)


def _by_keras_moments(x):
    mean, variance = keras.ops.moments(x, axes=[0], keepdims=True)
    return mean * x + tf.exp(-variance)


def _in_a_call(x):
    return tf.function(_by_moments, autograph=False)(x)


NORMALIZATIONS = {
    "batch": lambda: _keras_layer(keras.layers.BatchNormalization, training=True),
    "layer": lambda: _keras_layer(keras.layers.LayerNormalization),
    "group": lambda: _keras_layer(lambda dtype: keras.layers.GroupNormalization(2, dtype=dtype)),
    "moments": lambda: _by_moments,
    "keras_moments": lambda: _by_keras_moments,
    "in_a_call": lambda: _in_a_call,
}


def _dot(a, b):
    return tf.reduce_sum(a * b)


def _directional(function, v):
    return lambda x: custom_op.jvp(function, x, v)[1]


def _gradient(function):
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)

    return gradient


def _hessian(value):
    """As the Hessian operator does: the linearization of a linearization's transpose."""

    def gradient(x):
        return custom_op.linearize(value, x).vjp(tf.ones([], tf.float64))

    return lambda x: custom_op.linearize(gradient, x).jvp(V)


def _difference(function, direction):
    """Of fourth order."""
    step = 1e-3
    function = tf.function(function, autograph=False)

    @tf.function(autograph=False)
    def run(x):
        at = {k: function(x + k * step * direction) for k in (-2, -1, 1, 2)}
        return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)

    return run(X)


# Keras' layer normalisation takes its moments as its group normalisation does.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "layer" else name
        for name in NORMALIZATIONS
    ],
)
def test_second_and_third_derivatives(name):
    normalization = NORMALIZATIONS[name]()

    def value(x):
        return _dot(WEIGHTS, tf.sin(normalization(x)))

    product = _hessian(value)

    @tf.function(autograph=False)
    def automatic(x):
        return {
            "jvp of jvp": _directional(_directional(value, V), W)(x),
            "tape of jvp": _dot(W, _gradient(_directional(value, V))(x)),
            "jvp of a tape": _dot(W, _directional(_gradient(value), V)(x)),
            "hessian": _dot(W, product(x)),
            "hessian, transposed": _dot(W, custom_op.linearize(_gradient(value), x).vjp(V)),
        }

    expected = _dot(W, _difference(_gradient(value), V))
    results = automatic(X)
    for what, got in results.items():
        np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=what)
    wrong = tf.function(_gradient(lambda x: _dot(V, _gradient(value)(x))), autograph=False)(X)
    assert abs(_dot(W, wrong) - expected) > 1e-3 * abs(expected), "TensorFlow is right by now"

    # A derivative of a Hessian product, by a tape and by R-forward.
    third = _dot(W, _difference(product, Z))

    @tf.function(autograph=False)
    def of_the_hessian(x):
        return (
            _dot(Z, _gradient(lambda x: _dot(W, product(x)))(x)),
            _dot(W, _directional(product, Z)(x)),
        )

    np.testing.assert_allclose(of_the_hessian(X), [third, third], rtol=1e-6)


def test_a_stop_of_the_users_own_stays():
    """The same formula, written by hand: its author means the stop."""

    def by_hand(x):
        mean = tf.stop_gradient(tf.reduce_mean(x, 0, keepdims=True))
        return _dot(WEIGHTS, (x - mean) * tf.reduce_mean(tf.math.squared_difference(x, mean)))

    second = tf.function(_gradient(lambda x: _dot(V, _gradient(by_hand)(x))), autograph=False)(X)
    for function in (_directional(_gradient(by_hand), V), _hessian(by_hand)):
        np.testing.assert_allclose(function(X), second, rtol=1e-12, atol=1e-12)


def test_eager_as_in_a_function():
    layer = NORMALIZATIONS["layer"]()
    product = _hessian(lambda x: _dot(WEIGHTS, tf.sin(layer(x))))
    np.testing.assert_allclose(product(X), tf.function(product, autograph=False)(X), rtol=1e-12)


def test_the_layers_are_found():
    model = keras.Sequential(
        [
            keras.layers.Dense(3, name="first"),
            keras.layers.LayerNormalization(name="normal"),
            keras.layers.RMSNormalization(name="exact"),
            keras.layers.BatchNormalization(name="still"),
        ],
        name="net",
    )
    model.build((2, 4))
    state = [variable.value for variable in model.non_trainable_variables]

    def network(parameters, training):
        return model.stateless_call(parameters, state, tf.ones([2, 4]), training=training)[0]

    parameters = model.trainable_variables
    parameters = [variable.value for variable in parameters]
    (found,) = stopped_means(lambda p: network(p, False), parameters)
    assert "normal" in found
    assert len(stopped_means(lambda p: network(p, True), parameters)) == 2
    (inside,) = stopped_means(_in_a_call, X)
    assert "moments" in inside
    assert stopped_means(tf.sin, X) == []
