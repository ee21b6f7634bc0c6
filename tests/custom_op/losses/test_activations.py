"""Softmaxes at the end of a traced network: taken off, seen, and never seen where there is none."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from custom_op.losses import activations

Z = np.random.default_rng(0).normal(size=(4, 2, 3))


def traced(function):
    """Runs a function of z in a graph: what is found at its end, and values."""
    found = {}

    @tf.function(autograph=False)
    def run(z):
        outputs = function(z)
        found["ends"] = activations.ends_in(outputs)
        kinds = [k for k in activations.ACTIVATIONS if activations.before(outputs, k) is not None]
        found["undone"] = kinds
        return outputs, [activations.before(outputs, kind) for kind in kinds]

    outputs, before = run(tf.constant(Z))
    return found["ends"], found["undone"], outputs, before


UNDONE = {
    "plain": tf.nn.softmax,
    "keras": keras.activations.softmax,
    "layer": lambda z: keras.layers.Softmax(dtype="float64")(z),
    "cast": lambda z: tf.cast(tf.nn.softmax(tf.cast(z, tf.float32)), tf.float64),
    "rows": lambda z: tf.reshape(tf.nn.softmax(z), [-1, 3]),
    "squeezed": lambda z: tf.squeeze(tf.nn.softmax(z[:, :1]), 1),
    "last": lambda z: tf.identity(tf.nn.softmax(z)[:, -1, :]),
    "turned": lambda z: tf.transpose(tf.nn.softmax(z), [1, 0, 2]),
}


@pytest.mark.parametrize("name", UNDONE)
def test_what_went_into_a_softmax(name):
    ends, undone, outputs, (before,) = traced(UNDONE[name])
    assert (ends, undone) == ("softmax", ["softmax"])
    np.testing.assert_allclose(tf.nn.softmax(before), outputs, rtol=1e-6)
    assert np.min(before) < 0 and before.dtype == outputs.dtype


MOVED = {
    "other axis": lambda z: tf.transpose(tf.nn.softmax(z, axis=1), [0, 2, 1]),
    "layer": lambda z: keras.layers.Permute((2, 1), dtype="float64")(
        keras.layers.Softmax(axis=1, dtype="float64")(z)
    ),
    "logarithms": lambda z: tf.identity(tf.exp(tf.nn.log_softmax(z))),
}


@pytest.mark.parametrize("name", MOVED)
def test_a_softmax_over_another_axis_that_is_made_the_last_and_one_by_logarithms(name):
    _, undone, outputs, (before, *_) = traced(MOVED[name])
    assert undone[0] == "softmax"
    np.testing.assert_allclose(tf.nn.softmax(before), outputs, rtol=1e-12)


def test_a_softmax_whose_axis_is_not_the_last_is_not_taken_off():
    for function in (
        lambda z: tf.nn.softmax(z, axis=1),
        lambda z: tf.transpose(tf.nn.softmax(z), [0, 2, 1]),
        lambda z: tf.transpose(tf.nn.softmax(z, axis=0), [0, 2, 1]),
        lambda z: tf.exp(z - 1),
    ):
        assert "softmax" not in traced(function)[1]


def test_what_went_into_a_sigmoid_and_an_exponential():
    for function, name, inverse in (
        (lambda z: tf.reshape(tf.sigmoid(z), [-1]), "sigmoid", tf.sigmoid),
        (lambda z: tf.transpose(tf.exp(z)), "exponential", tf.exp),
    ):
        _, undone, outputs, (before,) = traced(function)
        assert undone == [name]
        np.testing.assert_array_equal(inverse(before), outputs)


@tf.function
def compiled_softmax(z):
    return tf.nn.softmax(z)


def by_hand(z):
    e = tf.exp(z - tf.reduce_max(z, -1, keepdims=True))
    return e / tf.reduce_sum(e, -1, keepdims=True)


SEEN = {
    "mean of two": lambda z: (tf.nn.softmax(z) + tf.nn.softmax(2 * z)) / 2,
    "weights": lambda z: 0.25 * tf.nn.softmax(z) + tf.nn.softmax(2 * z) * 0.75,
    "average": lambda z: keras.layers.Average(dtype="float64")(
        [tf.nn.softmax(z), tf.nn.softmax(-z), tf.nn.softmax(2 * z)]
    ),
    "over an axis": lambda z: tf.reduce_mean(tf.nn.softmax(z), 1),
    "clipped": lambda z: tf.clip_by_value(tf.nn.softmax(z), 1e-7, 1.0),
    "by hand": by_hand,
    "in a function": lambda z: compiled_softmax(z),
    "stacked": lambda z: tf.stack([tf.nn.softmax(z), tf.nn.softmax(-z)], 1),
    "joined": lambda z: tf.concat([tf.nn.softmax(z), tf.nn.softmax(-z)], 1),
}


@pytest.mark.parametrize("name", SEEN)
def test_probabilities_that_cannot_be_undone_are_seen(name):
    ends, undone, outputs, _ = traced(SEEN[name])
    np.testing.assert_allclose(tf.reduce_sum(outputs, -1), 1, rtol=1e-6)
    assert (ends, undone) == ("softmax", [])


LOGITS = {
    "attention": lambda z: tf.matmul(tf.nn.softmax(tf.matmul(z, z, transpose_b=True)), z),
    "gates": lambda z: tf.nn.softmax(z) * tf.tanh(z),
    "scaled": lambda z: 30 * tf.nn.softmax(z),
    "shifted": lambda z: tf.nn.softmax(z) - 0.5,
    "logarithm": lambda z: tf.math.log(tf.nn.softmax(z)),
    "log softmax": tf.nn.log_softmax,
    "residual": lambda z: z + tf.nn.softmax(z),
    "sum": lambda z: tf.reduce_sum(tf.nn.softmax(z), -1),
    "sum of heads": lambda z: tf.nn.softmax(z) + tf.nn.softmax(-z),
    "joined": lambda z: tf.concat([tf.nn.softmax(z), tf.nn.softmax(-z)], -1),
    "other axis": lambda z: tf.transpose(tf.nn.softmax(z), [0, 2, 1]),
    "dense": lambda z: tf.matmul(tf.nn.softmax(z), tf.ones([4, 3, 3], tf.float64)),
    "ratio": lambda z: z / tf.reduce_sum(z, -1, keepdims=True),
    "linear": lambda z: 2 * z,
}


@pytest.mark.parametrize("name", LOGITS)
def test_a_softmax_inside_is_none_at_the_end(name):
    ends, undone, _, _ = traced(LOGITS[name])
    assert (ends, undone) == (None, [])


def test_an_eager_tensor_has_no_history():
    assert activations.ends_in(tf.nn.softmax(tf.constant(Z))) is None


def test_a_constant_is_no_probability():
    seen = []

    @tf.function(autograph=False)
    def outputs(x):
        seen.extend(
            activations.wrong_for(y, "softmax") for y in (0.0 * tf.sin(x), tf.zeros_like(x))
        )
        return x

    outputs(tf.ones([2, 3]))
    assert seen == [None, None]
