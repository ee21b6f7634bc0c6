"""Adam against NumPy and Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlhf.meta_training import adam


def gradients(count):
    random = np.random.default_rng(0)
    # From 1e-9, where ε counts, to 10.
    return [random.normal(size=4) * [1e-9, 1e-3, 1, 10] for _ in range(count)]


def run(rate, count, dtype=tf.float64):
    w = {"a": tf.ones([2], dtype), "b": (tf.ones([2], dtype),)}
    state = adam.init(w)
    for g in gradients(count):
        g = tf.constant(g, dtype)
        w, state = adam.update(w, {"a": g[:2], "b": (g[2:],)}, state, tf.constant(rate, dtype))
    return tf.concat([w["a"], w["b"][0]], 0), state


def test_against_the_paper():
    rate, m, v, w = 0.01, 0, 0, np.ones(4)
    for t, g in enumerate(gradients(20), 1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    got, state = run(rate, 20)
    np.testing.assert_allclose(got, w, rtol=1e-13)
    assert int(state.step) == 20
    assert state.step.dtype == tf.int64


def test_against_keras():
    """Keras adds ε to the root of the uncorrected moment, so that its ε is another one."""
    rate, count = 0.01, 20
    variable = tf.Variable(tf.ones([3], tf.float64))
    optimizer = keras.optimizers.Adam(rate, epsilon=1e-30)
    optimizer.build([variable])
    for g in gradients(count):
        # Without the first one, where ε counts.
        optimizer.apply([tf.constant(g[1:])], [variable])
    got, _ = run(rate, count)
    np.testing.assert_allclose(got[1:], variable, rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_keeps_dtypes(dtype):
    w, state = run(0.01, 1, dtype)
    assert w.dtype == dtype
    assert all(leaf.dtype == dtype for leaf in tf.nest.flatten((state.first, state.second)))
