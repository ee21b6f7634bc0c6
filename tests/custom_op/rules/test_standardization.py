"""The derivative of normalisations as one map, against the operations one by one."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.linear_maps import paired
from custom_op.rules import normalization_groups

_random = np.random.default_rng(17)
SHAPE = (3, 4, 2, 6)


def _draw(*shape):
    return tf.constant(_random.normal(size=shape))


POINT, TANGENTS = ([_draw(*SHAPE), _draw(6), _draw(6)] for _ in range(2))
COTANGENT = _draw(*SHAPE)


def _by_hand(x, gamma, beta):
    mean = tf.reduce_mean(x, [0, 1, 2], keepdims=True)
    centred = x - mean
    variance = tf.reduce_mean(tf.square(centred), [0, 1, 2], keepdims=True)
    return centred * tf.math.rsqrt(variance + 0.1) * gamma + beta


def _stock(x, gamma, beta):
    mean, variance = tf.nn.moments(x, [0, 1, 2])
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 0.1)


def _channels_first(x, gamma, beta):
    mean, variance = tf.nn.moments(x, [0, 2, 3], keepdims=True)
    gamma, beta = (tf.reshape(values[:4], [1, 4, 1, 1]) for values in (gamma, beta))
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 0.1)


def _over_features(x, gamma, beta):
    return keras.ops.layer_normalization(x, gamma, beta, axis=-1, epsilon=0.1)


def _gamma_alone(x, gamma, beta):
    return _stock(x, gamma, None) + tf.stop_gradient(beta)


def _plain(x, gamma, beta):
    return _by_hand(x, 1.0, tf.zeros_like(beta)) + 0.0 * tf.reduce_sum(gamma * beta)


def _with_relu(x, gamma, beta):
    return tf.nn.relu(_stock(x, gamma, beta))


def _mean_used_twice(x, gamma, beta):
    mean = tf.reduce_mean(x, [0, 1, 2], keepdims=True)
    centred = x - mean
    variance = tf.reduce_mean(tf.square(centred), [0, 1, 2], keepdims=True)
    y = gamma * (centred * tf.math.rsqrt(variance + 0.1)) + beta
    return y * mean + tf.exp(-variance)


def _gamma_of_the_statistics(x, gamma, beta):
    mean = tf.reduce_mean(x, [0, 1, 2], keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), [0, 1, 2], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 0.1) * (gamma * mean) + beta * variance


NORMALIZATIONS = {
    f.__name__: f
    for f in (
        _by_hand,
        _stock,
        _channels_first,
        _over_features,
        _gamma_alone,
        _plain,
        _with_relu,
        _mean_used_twice,
        _gamma_of_the_statistics,
    )
}


@pytest.fixture(params=["plain", "compiled"])
def kernels(request, monkeypatch):
    """Kernels of XLA for tensors of any size, or for none."""
    threshold = 1 if request.param == "compiled" else 2**40
    monkeypatch.setattr(paired, "COMPILED_FROM", threshold)


@pytest.fixture
def found(monkeypatch):
    """Counts the groups that are found."""
    original, count = normalization_groups.groups, []

    def counting(*arguments):
        result = original(*arguments)
        count.extend(result)
        return result

    monkeypatch.setattr(normalization_groups, "groups", counting)
    return count


def _derivatives(function, point, tangents, cotangent):
    """First and second derivatives, forward and transposed, in a graph."""

    def pulled(p):
        return custom_op.linearize(lambda p: function(*p), p, unconnected="zero").vjp(cotangent)

    def pushed(p):
        return custom_op.jvp(lambda p: function(*p), p, tangents)[1]

    @tf.function(autograph=False)
    def run(*p):
        p = list(p)
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = tf.reduce_sum(tf.sin(pushed(p)))
        return {
            "jvp": pushed(p),
            "vjp": pulled(p),
            "jvp of vjp": custom_op.jvp(pulled, p, tangents)[1],
            "jvp of jvp": custom_op.jvp(pushed, p, tangents)[1],
            "tape of jvp": tape.gradient(value, p, unconnected_gradients="zero"),
        }

    return run(*point)


@functools.cache
def _one_by_one(name):
    """Without groups, whose kernels alone are compiled or not: call it while none are found."""
    return _derivatives(NORMALIZATIONS[name], POINT, TANGENTS, COTANGENT)


# Compiled kernels see a group alone, whose forms these are; the others differ in what is around it.
_COMPILED = ("_by_hand", "_stock", "_channels_first", "_with_relu")


@pytest.mark.parametrize(
    ("kernels", "name"),
    [
        pytest.param(kind, name, marks=() if name in often else pytest.mark.slow)
        for kind, often in (("plain", NORMALIZATIONS), ("compiled", _COMPILED))
        for name in NORMALIZATIONS
    ],
    indirect=["kernels"],
)
def test_as_the_operations_one_by_one(name, kernels, found, monkeypatch):
    got = _derivatives(NORMALIZATIONS[name], POINT, TANGENTS, COTANGENT)
    assert found
    monkeypatch.setattr(normalization_groups, "groups", lambda *_: {})
    expected = _one_by_one(name)
    for what in expected:
        for a, b in zip(tf.nest.flatten(got[what]), tf.nest.flatten(expected[what]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11, err_msg=what)


def _own_stop(x, gamma, beta):
    mean = tf.reduce_mean(x, [0, 1, 2], keepdims=True)
    variance = tf.reduce_mean(
        tf.math.squared_difference(x, tf.stop_gradient(mean)), [0, 1, 2], keepdims=True
    )
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 0.1)


def _other_mean(x, gamma, beta):
    variance = tf.reduce_mean(
        tf.math.squared_difference(x, tf.reduce_mean(x, 0, keepdims=True)), [0], keepdims=True
    )
    return tf.nn.batch_normalization(
        x, tf.reduce_mean(x, [0, 1, 2], keepdims=True), variance, beta, gamma, 0.1
    )


def _along_another_axis(x, gamma, beta):
    # The statistics of the channels, put along the columns of a square.
    x = tf.reshape(x, [4, 6, 6])
    mean, variance = tf.nn.moments(x, [0, 1])
    return (x - mean[:, None]) * tf.math.rsqrt(variance + 0.1)[:, None] * gamma + beta


def _learned_epsilon(x, gamma, beta):
    mean = tf.reduce_mean(x, [0, 1, 2], keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), [0, 1, 2], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + tf.exp(gamma)) + beta


@pytest.mark.parametrize("function", [_own_stop, _other_mean, _along_another_axis])
def test_what_is_none(function, found):
    function_of_x = custom_op.linearize(lambda x: function(x, _draw(6), _draw(6)), _draw(*SHAPE))
    function_of_x.jvp(_draw(*SHAPE))
    assert not found


def test_an_epsilon_that_is_learned(found):
    x, gamma, t = _draw(*SHAPE), _draw(6), _draw(6)
    pushed = custom_op.jvp(lambda g: _learned_epsilon(x, g, 0.0), gamma, t)[1]
    step = 1e-6
    ahead, behind = (_learned_epsilon(x, gamma + s * step * t, 0.0) for s in (1, -1))
    np.testing.assert_allclose(pushed, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)
    assert not found


def test_a_result_of_which_only_the_shape_is_wanted(kernels):
    """TensorFlow's optimizer would put nothing in the place of the kernel, and fail."""

    def network(p):
        x, kernel = p
        y = tf.nn.relu(_by_hand(x, 1.0, 0.0))
        return tf.nn.conv2d(tf.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel, 2, "VALID")

    point, along = ([_draw(*SHAPE), _draw(3, 3, 6, 2)] for _ in range(2))

    @tf.function(autograph=False)
    def run(point, along):
        linear = custom_op.linearize(network, point)
        pushed = linear.jvp(along)
        with tf.GradientTape() as tape:
            tape.watch(along)
            again = linear.jvp(along)
        return tf.reduce_sum(pushed**2), linear.vjp(pushed), tape.gradient(again, along, pushed)

    square, pulled, taped = run(point, along)
    inner = sum(tf.reduce_sum(a * b) for a, b in zip(pulled, along, strict=True))
    np.testing.assert_allclose(inner, square, rtol=1e-12)
    for a, b in zip(pulled, taped, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
