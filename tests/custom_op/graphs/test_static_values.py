"""Small integer tensors that follow from constants, and branches under XLA that need them."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.graphs.static_values import whole_numbers


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: tf.rank(x) - 1, 2),
        (lambda x: tf.range(tf.rank(x) - 1, -1, -1), [2, 1, 0]),
        (lambda x: tf.concat([tf.range(1, tf.rank(x)), [0]], 0), [1, 2, 0]),
        (lambda x: tf.math.invert_permutation(tf.concat([tf.range(1, 3), [0]], 0)), [2, 0, 1]),
        (lambda x: tf.stack([2 * tf.rank(x) // 4, tf.rank(x) % 2, -tf.rank(x)]), [1, 1, -3]),
        (lambda x: tf.reduce_prod(tf.stack([3, tf.rank(x) + 1])), 12),
        (lambda x: tf.identity(tf.maximum(tf.rank(x), 7)), 7),
        (lambda x: tf.cast(x[0, 0, 0], tf.int32) + 1, None),
        (lambda x: tf.range(20) + 1, None),
        (lambda x: x * 0, None),
    ],
)
def test_value_that_follows_from_constants(make, expected):
    found = []

    @tf.function
    def trace(x):
        found.append(whole_numbers(make(x)))

    trace.get_concrete_function(tf.TensorSpec([2, 3, 4], tf.float64))
    if expected is None:
        assert found == [None]
    else:
        np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("axis", [0, -2])
def test_transposition_inside_a_branch_under_xla(axis):
    """Softmax over the first axis transposes, by an order that it counts out."""
    w = tf.constant([0.3, -0.2, 0.5, 0.1, 0.7, -0.4], tf.float64)
    targets = tf.zeros([2, 3], tf.float64)

    def network(w):
        return tf.cond(
            tf.reduce_sum(w) > -1.0,
            lambda: tf.nn.softmax(tf.reshape(w * w, [2, 3]), axis=axis),
            lambda: 2 * tf.nn.softmax(tf.reshape(w, [2, 3]), axis=axis),
        )

    def product(w, v):
        return custom_op.hessian(network, w, "squared_error", targets).matvec(v)

    def loss(w):
        return tf.reduce_mean(tf.reduce_sum(tf.square(network(w)), 1))

    v = tf.constant([0.2, 1.0, -0.3, 0.5, 0.4, -1.0], tf.float64)
    found = tf.function(product, jit_compile=True)(w, v)
    step = 1e-5

    def slope(w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = loss(w)
        return tape.gradient(value, w)

    differences = (slope(w + step * v) - slope(w - step * v)) / (2 * step)
    factor = tf.reduce_sum(found * differences) / tf.reduce_sum(differences**2)
    assert abs(float(factor) - 0.5) < 1e-8 or abs(float(factor) - 1) < 1e-8
    np.testing.assert_allclose(found, factor * differences, rtol=0, atol=1e-8)
