"""Rules of extremes, products, norms and cumulative products and sums."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op import registry

_random = np.random.default_rng(7)
X = _random.normal(size=(2, 5, 3))
# Products of which one, two and no factors are zero.
ZEROS = np.array([[0.0, 2.0, -3.0, 0.5, 1.5], [0.0, 2.0, 0.0, 0.5, 1.5], [1.0, 2.0, 3.0, 4.0, -1]])


def _reductions(x):
    return {
        "max": tf.reduce_max(x, 1),
        "max_kept": tf.reduce_max(x, [0, 2], keepdims=True),
        "min": tf.reduce_min(x),
        "norm": tf.norm(x, axis=1),
        "euclidean": tf.math.reduce_euclidean_norm(x, [0, 1]),
        "half_square": tf.nn.l2_loss(x),
        "prod": tf.reduce_prod(x, 1),
        "prod_two": tf.reduce_prod(x, [2, 0], keepdims=True),
        "prod_all": tf.reduce_prod(x),
        "prod_none": tf.reduce_prod(x, []),
    }


def _cumulative(x):
    return {
        "prod": tf.math.cumprod(x, 1),
        "prod_exclusive": tf.math.cumprod(x, 1, exclusive=True),
        "prod_reverse": tf.math.cumprod(x, -1, reverse=True, exclusive=True),
        "logsumexp": tf.math.cumulative_logsumexp(x, 1),
        "logsumexp_reverse": tf.math.cumulative_logsumexp(x, 1, reverse=True),
        "logsumexp_exclusive": tf.math.cumulative_logsumexp(x, 1, exclusive=True)[:, 1:],
    }


CASES = {"reductions": (_reductions, X), "cumulative": (_cumulative, X)}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    custom_op.check_rule(*CASES[case])


def _derivative(function, v):
    return lambda x: custom_op.jvp(function, x, v)[1]


def _third(function, x, *directions):
    for v in directions:
        function = _derivative(function, v)
    return tf.function(function, autograph=False)(x)


def test_products_with_zeros_to_third_order():
    x = tf.constant(ZEROS)
    v = [_random.normal(size=x.shape) for _ in range(3)]
    expected = np.zeros(3)
    for places in itertools.permutations(range(5), 3):
        rest = [j for j in range(5) if j not in places]
        term = ZEROS[:, rest].prod(1)
        for direction, place in zip(v, places, strict=True):
            term = term * direction[:, place]
        expected += term
    directions = [tf.constant(value) for value in v]
    got = _third(lambda x: tf.reduce_prod(x, 1), x, *directions)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    got = _third(lambda x: tf.math.cumprod(x, 1), x, *directions)
    np.testing.assert_allclose(got[:, -1], expected, rtol=1e-12)


def test_sums_of_exponentials_without_their_rule(monkeypatch):
    """TensorFlow's own gradient takes the logarithm of a cotangent that is zero there."""
    x, v = tf.constant(X[0]), tf.constant(X[1])
    weights = tf.nn.softmax(x[:3], axis=0)
    expected = tf.reduce_sum(weights * v[:3], 0)

    def last(x):
        return custom_op.jvp(lambda x: tf.math.cumulative_logsumexp(x, 0)[2], x, v)[1]

    np.testing.assert_allclose(last(x), expected, rtol=1e-12)
    rules = {k: rule for k, rule in registry._RULES.items() if k != "CumulativeLogsumexp"}
    monkeypatch.setattr(registry, "_RULES", rules)
    np.testing.assert_allclose(last(x), expected, rtol=1e-12)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("settings", [{}, {"reverse": True}, {"exclusive": True}])
def test_second_derivative_of_sums_of_equal_exponentials(settings, mode):
    """Where terms are equal, as in a network of zeros, the sum is as smooth as elsewhere."""
    x = tf.constant([[0.4, 0.4, 0.4, 0.1], [0.0, -0.3, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], tf.float64)
    v = tf.constant(
        [[1.0, -0.5, 2.0, 0.3], [0.4, 0.7, -1.0, 0.2], [-0.6, 0.8, 0.1, 1.5]], tf.float64
    )

    def gradient(x):
        linear = custom_op.linearize(lambda x: tf.math.cumulative_logsumexp(x, 1, **settings), x)
        return linear.vjp(tf.maximum(linear.outputs, -9.0))

    def product(x):
        return custom_op.jvp(gradient, x, v)[1]

    compute = product if mode == "eager" else tf.function(product, jit_compile=mode == "xla")
    # First derivatives use no second ones, and on both sides nothing is equal.
    step = 1e-5
    expected = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)
    assert float(tf.reduce_max(tf.abs(expected))) > 0.1
    np.testing.assert_allclose(compute(x), expected, rtol=1e-7, atol=1e-8)


def test_ties_as_tensorflow():
    x = tf.constant([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_max(x, 1)
    linear = custom_op.linearize(lambda x: tf.reduce_max(x, 1), x)
    np.testing.assert_allclose(linear.vjp(tf.ones([2])), tape.gradient(y, x))


def test_empty_products():
    x = tf.zeros([2, 0], tf.float64)
    value, tangent = custom_op.jvp(lambda x: tf.reduce_prod(x, 1), x, x)
    np.testing.assert_array_equal(value, [1, 1])
    np.testing.assert_array_equal(tangent, [0, 0])


def test_norm_at_zero():
    x = tf.zeros([3])
    _, tangent = custom_op.jvp(tf.math.reduce_euclidean_norm, x, tf.ones([3]))
    assert tangent == 0.0


def test_an_unknown_size_falls_back():
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 3], tf.float64)] * 2)
    def run(x, t):
        return custom_op.jvp(lambda x: tf.reduce_prod(x, 0), x, t)[1]

    x, t = tf.constant(ZEROS[2:, :3]), tf.constant(ZEROS[:1, :3])
    np.testing.assert_allclose(run(x, t), t[0])
