"""Maps whose transpose is given, where their results are read in unusual ways."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

ROWS = tf.constant([2, 0, 2, 1])
X = tf.constant([[0.3, -0.2], [0.5, 0.1], [0.7, -0.4]], tf.float64)
TARGETS = tf.zeros([4, 2], tf.float64)


def normalized(x):
    mean, variance = tf.nn.moments(x, [0])
    return tf.nn.batch_normalization(x, mean, variance, x[0], None, 0.1)


def normalized_by_hand(x):
    """The same without `tf.nn.moments`, whose second derivatives TensorFlow gets wrong."""
    mean = tf.reduce_mean(x, 0)
    variance = tf.reduce_mean(tf.square(x - mean), 0)
    return (x - mean) / tf.sqrt(variance + 0.1) + x[0]


@tf.custom_gradient
def square(x):
    return x * x, lambda upstream: 2 * x * upstream


def pooled(x):
    return tf.reshape(tf.nn.max_pool2d(tf.reshape(x, [1, 3, 2, 1]), 2, 1, "SAME"), [3, 2])


@pytest.mark.parametrize(
    ("where", "mode"), [("here", "eager"), ("here", "xla"), ("branch", "graph")]
)
@pytest.mark.parametrize(
    ("layer", "reference"),
    [(normalized, normalized_by_hand), (square, tf.square), (pooled, pooled)],
    ids=["normalization", "custom gradient", "pooling"],
)
def test_rows_gathered_from_the_result(layer, reference, where, mode):
    """The gradient of a gather is an IndexedSlices, also where it meets a given transpose."""

    def network(x):
        values = layer(x)
        if where == "here":
            return tf.gather(values, ROWS)
        return tf.cond(
            tf.reduce_sum(x) > -9.0,
            lambda: tf.gather(values, ROWS),
            lambda: tf.gather(x, ROWS),
        )

    def products(x):
        hessian = custom_op.hessian(network, x, "squared_error", TARGETS)
        return hessian.matvec(x), hessian.gradient()

    compute = products if mode == "eager" else tf.function(products, jit_compile=mode == "xla")
    product, gradient = compute(X)

    # The same rows by a matrix of zeros and ones, which has a dense gradient.
    choice = tf.one_hot(ROWS, 3, dtype=tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(X)
        with tf.GradientTape() as inner:
            inner.watch(X)
            loss = 0.5 * tf.reduce_mean(tf.reduce_sum(tf.square(choice @ reference(X)), 1))
        slope = inner.gradient(loss, X)
    matrix = tf.reshape(outer.jacobian(slope, X), [6, 6])
    np.testing.assert_allclose(gradient, slope, rtol=1e-10, atol=1e-12)
    expected = tf.linalg.matvec(matrix, tf.reshape(X, [6]))
    np.testing.assert_allclose(tf.reshape(product, [6]), expected, rtol=1e-9, atol=1e-12)
