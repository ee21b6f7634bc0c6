"""Derivatives to third order, by R-forward and reverse in any nesting, against closed forms.

For f(w) = Σ_j c_j exp(a_j·w), whose k-th derivative along v is Σ_j c_j (a_j·v)^k exp(a_j·w).
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(13)
A, C = _random.normal(size=(5, 3)), _random.normal(size=5)
W, V = _random.normal(size=3) / 2, _random.normal(size=3)

MODES = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "xla": lambda function: tf.function(function, autograph=False, jit_compile=True),
    "loop": lambda function: tf.function(_in_a_loop(function), autograph=False),
}


def _value(w):
    return tf.reduce_sum(C * tf.exp(tf.linalg.matvec(A, w)))


def _closed_form(order):
    return np.sum(C * (A @ V) ** order * np.exp(A @ W))


def _in_a_loop(function):
    """The derivative is built in the body of a loop, at the point that the loop carries."""

    def run(w):
        def body(i, w, _):
            return i + 1, w + 0.0, function(w)

        start = (0, w, tf.zeros([], w.dtype))
        return tf.while_loop(lambda i, *_: i < 2, body, start, maximum_iterations=2)[2]

    return run


def _jvp(function):
    return lambda w: custom_op.jvp(function, w, tf.constant(V))[1]


def _vjp(function):
    def along(w):
        linear = custom_op.linearize(function, w)
        return tf.reduce_sum(V * linear.vjp(tf.ones([], w.dtype)))

    return along


def _tape(function):
    def along(w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = function(w)
        return tf.reduce_sum(V * tape.gradient(value, w))

    return along


WAYS = {"jvp": _jvp, "vjp": _vjp, "tape": _tape}
NESTINGS = ["/".join(ways) for ways in itertools.product(WAYS, repeat=3)]
QUICK = {"jvp/jvp/jvp", "vjp/vjp/vjp", "tape/jvp/vjp", "jvp/tape/vjp", "vjp/jvp/tape"}


def _check(nesting, mode):
    function = _value
    for order, way in enumerate(nesting.split("/"), start=1):
        function = WAYS[way](function)
        if order >= 2:
            derivative = MODES[mode](function)(tf.constant(W))
            np.testing.assert_allclose(derivative, _closed_form(order), rtol=1e-12)


@pytest.mark.parametrize("nesting", sorted(QUICK))
@pytest.mark.parametrize("mode", MODES)
def test_three_derivatives(nesting, mode):
    _check(nesting, mode)


@pytest.mark.slow
@pytest.mark.parametrize("nesting", [n for n in NESTINGS if n not in QUICK])
@pytest.mark.parametrize("mode", MODES)
def test_three_derivatives_in_every_nesting(nesting, mode):
    _check(nesting, mode)


def _network(w, x):
    return tf.tanh(tf.tanh(x @ w["in"]) @ w["out"])


def _gauss_newton_product(w, x):
    """Gv of half the squared error, at a fixed v."""
    linear = custom_op.linearize(lambda w: _network(w, x), w)
    v = tf.nest.map_structure(lambda leaf: tf.ones_like(leaf) / 2, w)
    return linear.vjp(linear.jvp(v))


def _jacobian_product(w, x):
    v = tf.nest.map_structure(lambda leaf: tf.ones_like(leaf) / 2, w)
    return custom_op.jvp(lambda w: _network(w, x), w, v)[1]


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("product", [_gauss_newton_product, _jacobian_product])
def test_gradients_of_products_in_parameters_and_inputs(product, mode):
    point = {
        "w": {"in": _random.normal(size=(3, 2)), "out": _random.normal(size=(2, 2))},
        "x": _random.normal(size=(4, 3)),
    }
    point = tf.nest.map_structure(tf.constant, point)
    along = tf.nest.map_structure(lambda leaf: tf.constant(_random.normal(size=leaf.shape)), point)

    def value(p):
        return tf.add_n(
            [tf.reduce_sum(tf.sin(leaf)) for leaf in tf.nest.flatten(product(p["w"], p["x"]))]
        )

    @MODES[mode]
    def slopes(p):
        with tf.GradientTape() as tape:
            tape.watch(p)
            outer = value(p)
        pulled = tape.gradient(outer, p)
        by_tape = tf.add_n(
            [
                tf.reduce_sum(a * b)
                for a, b in zip(tf.nest.flatten(pulled), tf.nest.flatten(along), strict=True)
            ]
        )
        return by_tape, custom_op.jvp(value, p, along)[1]

    def moved(step):
        return value(tf.nest.map_structure(lambda a, d: a + step * d, point, along))

    step = 1e-4
    # Fourth order in the step.
    expected = (8 * (moved(step) - moved(-step)) - moved(2 * step) + moved(-2 * step)) / 12 / step
    by_tape, by_r_forward = slopes(point)
    np.testing.assert_allclose(by_tape, expected, rtol=1e-9)
    np.testing.assert_allclose(by_r_forward, by_tape, rtol=1e-12)
