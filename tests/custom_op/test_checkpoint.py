"""Recomputation: the same numbers at every order, in every mode, and less memory."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(12)
X = tf.constant(_random.normal(size=(3, 4)))
W = tf.constant(_random.normal(size=(4, 4)) / 2)
V = tf.constant(_random.normal(size=(4, 4)))
SCALE = tf.Variable(1.25, dtype=tf.float64)

MODES = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "xla": lambda function: tf.function(function, autograph=False, jit_compile=True),
}


def plain(x, w):
    return {"h": tf.tanh(tf.tanh(x @ w) @ w) * SCALE, "norm": tf.reduce_sum(w**3)}


recomputed = custom_op.checkpoint(plain)


def _value(block):
    def value(w):
        outputs = block(X, w)
        return tf.reduce_sum(outputs["h"] ** 2) + outputs["norm"]

    return value


def _slope(function):
    """<V, the gradient>, a function of the same argument again."""

    def slope(w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = function(w)
        return tf.reduce_sum(V * tape.gradient(value, w))

    return slope


def _pushed(function):
    return lambda w: custom_op.jvp(function, w, V)[1]


def _all_orders(block, mode):
    def run(w):
        value = _value(block)
        first, second = _slope(value), _slope(_slope(value))
        return [
            *[value(w), first(w), second(w), _slope(second)(w)],
            *[_pushed(value)(w), _pushed(first)(w), _slope(_pushed(value))(w)],
            *[_pushed(_pushed(value))(w), _pushed(second)(w)],
        ]

    return MODES[mode](run)(W)


@pytest.fixture(scope="module")
def orders_of_plain():
    return _all_orders(plain, "graph")


@pytest.mark.parametrize("mode", MODES)
def test_derivatives_to_third_order(mode, orders_of_plain):
    np.testing.assert_allclose(_all_orders(recomputed, mode), orders_of_plain, rtol=1e-11)


def test_against_finite_differences():
    custom_op.check_rule(lambda w: recomputed(X, w)["h"], W)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_what_is_closed_over(mode):
    @tf.function
    def inner(x):
        return x * SCALE

    def run(w):
        block = custom_op.checkpoint(lambda x: tf.sin(x @ w) + inner(x))
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = tf.reduce_sum(block(X))
        return tape.gradient(value, [w, SCALE])

    to_w, to_scale = MODES[mode](run)(W)
    np.testing.assert_allclose(to_w, X.numpy().T @ np.cos(X @ W), rtol=1e-12)
    np.testing.assert_allclose(to_scale, np.sum(X), rtol=1e-12)


def test_in_a_loop_and_around_one():
    def looped(step, w):
        return tf.while_loop(
            lambda i, _: i < 3, lambda i, h: (i + 1, step(h, w)), (0, X), maximum_iterations=3
        )[1]

    def step(h, w):
        return tf.tanh(h @ w)

    def product(network):
        linear = custom_op.linearize(network, W)
        return linear.vjp(linear.jvp(V))

    expected = product(lambda w: looped(step, w))
    inside = tf.function(
        lambda: product(lambda w: looped(custom_op.checkpoint(step), w)), autograph=False
    )
    around = product(custom_op.checkpoint(lambda w: looped(step, w)))
    np.testing.assert_allclose(inside(), expected, rtol=1e-12)
    np.testing.assert_allclose(around, expected, rtol=1e-12)


def test_other_arguments_are_passed_on():
    @custom_op.checkpoint
    def chosen(x, rows, power=1):
        """Picks rows."""
        return tf.gather(x, rows) ** power

    assert chosen.__doc__ == "Picks rows."
    np.testing.assert_allclose(chosen(X, [0, 2], power=2), X.numpy()[[0, 2]] ** 2)


def test_checks_are_done_again():
    def checked(x):
        tf.debugging.assert_less(tf.reduce_max(x), tf.constant(1e6, x.dtype))
        return tf.sin(tf.debugging.check_numerics(x, "checked"))

    with tf.GradientTape() as tape:
        tape.watch(X)
        y = custom_op.checkpoint(checked)(X)
    np.testing.assert_allclose(tape.gradient(y, X), tf.cos(X), rtol=1e-12)


def test_what_would_differ_the_second_time_is_refused():
    state = tf.Variable(1.0)

    def assigning(x):
        state.assign_add(1.0)
        return x * state

    for function, named in ((assigning, "Assign"), (tf.random.normal, "Random")):
        inputs = tf.constant([2.0]) if named == "Assign" else tf.constant([2])
        with pytest.raises(ValueError, match=named):
            custom_op.checkpoint(function)(inputs)
    with pytest.raises(TypeError, match="results of a checkpointed function, got int64"):
        custom_op.checkpoint(tf.argmax)(X)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_graph_holds_the_recomputation(jit_compile):
    """What the optimizer leaves is measured by benchmarks/checkpoint_memory.py."""

    @tf.function(autograph=False, jit_compile=jit_compile)
    def slope(w):
        return _slope(_value(recomputed))(w)

    kinds = [op.type for op in slope.get_concrete_function(W).graph.get_operations()]
    assert kinds.count("Tanh") == 4
    assert kinds.count("XlaOptimizationBarrier") == jit_compile


def test_second_derivatives_through_moments_are_right():
    x = tf.constant([0.3, -0.2, 0.9, 0.4], tf.float64)
    t = tf.constant([1.0, 0.5, -2.0, 0.3], tf.float64)

    def normalized(z):
        mean, variance = tf.nn.moments(z, [0])
        return tf.reduce_sum(tf.sin((z - mean) / tf.sqrt(variance + 0.1)) * t)

    def gradient(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = custom_op.checkpoint(normalized)(z)
        return tape.gradient(value, z)

    def second(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            first = gradient(z)
        return tape.gradient(first, z, t)

    expected = (gradient(x + 1e-5 * t) - gradient(x - 1e-5 * t)) / 2e-5
    for run in (second, tf.function(second), tf.function(second, jit_compile=True)):
        np.testing.assert_allclose(run(x), expected, rtol=1e-6)
