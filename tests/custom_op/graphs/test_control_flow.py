"""Loops, branches and lists of tensors inside a differentiated function."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(11)
X = tf.constant(_random.normal(size=(3, 4)))
W = tf.constant(_random.normal(size=(4, 4)))
V = tf.constant(_random.normal(size=(4, 4)))


@tf.custom_gradient
def softplus(x):
    """The value is hidden from TensorFlow, so that only the gradient given here is right."""
    return tf.stop_gradient(tf.math.softplus(x)), lambda u: u * tf.sigmoid(x)


def recurrent(w, **settings):
    def body(i, h):
        return i + 1, tf.tanh(h @ w)

    return tf.while_loop(lambda i, _: i < 3, body, (0, X), **settings)[1]


def until_large(w):
    """How often the body runs depends on the values."""

    def body(h, count):
        return tf.sin(h) + 1.3 * h + w, count + 1.0

    h, count = tf.while_loop(
        lambda h, _: tf.reduce_sum(h**2) < 50.0, body, (w, tf.zeros([], w.dtype))
    )
    return h * count


def nested(w):
    def body(i, h):
        g = tf.while_loop(lambda j, _: j < 2, lambda j, g: (j + 1, tf.sin(g) * w), (0, h))[1]
        return i + 1, tf.cond(tf.reduce_sum(g) > 0, lambda: 2 * g, lambda: g @ V)

    return tf.while_loop(lambda i, _: i < 3, body, (0, w))[1]


def chosen(w):
    sine, one = tf.cond(
        tf.reduce_sum(w) > 0, lambda: (tf.sin(w), tf.ones_like(w)), lambda: (tf.cos(w), w @ V)
    )
    cases = [lambda: w, lambda: tf.exp(w), lambda: w * w]
    return {"if": sine * one, "case": tf.switch_case(tf.constant(1) * 1, cases)}


def arrays(w):
    fixed = tf.TensorArray(tf.float64, size=3, element_shape=[4])
    for i in range(3):
        fixed = fixed.write(i, w[i] * i)
    growing = tf.TensorArray(tf.float64, size=0, dynamic_size=True, element_shape=[4])
    growing = tf.while_loop(
        lambda i, _: i < 4, lambda i, a: (i + 1, a.write(i, tf.sin(w[i]))), (0, growing)
    )[1]
    scattered = tf.TensorArray(tf.float64, size=4).scatter([2, 0], tf.exp(w[:2]))
    return fixed.stack(), growing.concat(), scattered.gather([0, 2])


def halved_until_small(w, stop_before, stop_after):
    """A line search: w decides how often the body runs, and nothing else."""
    seen = tf.stop_gradient(w) if stop_before else w
    factor = tf.while_loop(
        lambda _, f: tf.reduce_sum((f * seen) ** 2) > 1.0,
        lambda i, f: (i + 1, f / 2),
        (0, tf.ones([], w.dtype)),
        maximum_iterations=30,
    )[1]
    return tf.sin(w) * (tf.stop_gradient(factor) if stop_after else factor)


def gradient_of(function):
    def gradient(w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = tf.add_n([tf.reduce_sum(z**2) for z in tf.nest.flatten(function(w))])
        return tape.gradient(value, w)

    return gradient


@tf.function
def called(w):
    return softplus(recurrent(w) @ w)


def checked(x):
    """TensorFlow counts a check among what has a state."""
    tf.debugging.assert_less(tf.reduce_max(x), tf.constant(1e6, x.dtype))
    return tf.debugging.check_numerics(x, "checked")


def checks_everywhere(w):
    h = tf.while_loop(
        lambda i, _: i < 2,
        lambda i, h: (i + 1, checked(tf.sin(h) @ w)),
        (0, w),
        maximum_iterations=2,
    )[1]
    h = tf.cond(tf.reduce_sum(h) > 1e3, lambda: h, lambda: checked(h * h))
    return tf.function(lambda h: checked(tf.tanh(h) * w), autograph=False)(h)


CASES = {
    "recurrent": recurrent,
    "checks": checks_everywhere,
    "until_large": until_large,
    "nested": nested,
    "chosen": chosen,
    "arrays": arrays,
    "map_fn": lambda w: tf.map_fn(lambda row: tf.sin(row) * tf.reduce_sum(row), w),
    "scan": lambda w: tf.scan(
        lambda a, row: tf.tanh(tf.linalg.matvec(w, a) + row), X, initializer=w[0]
    ),
    "vectorized_map": lambda w: tf.vectorized_map(lambda row: tf.sin(row) * row[0], w),
    "custom_gradient": lambda w: tf.while_loop(
        lambda i, _: i < 2, lambda i, h: (i + 1, softplus(h * w)), (0, w)
    )[1],
    "call": called,
    "gradient_of_a_loop": gradient_of(recurrent),
    "gradient_of_a_branch": gradient_of(chosen),
}


@pytest.mark.parametrize("case", CASES)
def test_first_and_second_derivatives(case):
    custom_op.check_rule(CASES[case], W)


@pytest.mark.parametrize("stops", [(True, False), (False, True), (False, False)])
def test_a_loop_whose_length_alone_depends_on_the_primals(stops):
    factor = halved_until_small(W, *stops) / tf.sin(W)
    assert float(tf.reduce_max(factor)) < 1
    tangent = custom_op.jvp(lambda w: halved_until_small(w, *stops), W, V)[1]
    np.testing.assert_allclose(tangent, factor * tf.cos(W) * V, rtol=1e-12)
    linear = custom_op.linearize(gradient_of(lambda w: halved_until_small(w, *stops)), W)
    np.testing.assert_allclose(linear.jvp(V), factor**2 * 2 * tf.cos(2 * W) * V, rtol=1e-12)


def _gauss_newton(w):
    linear = custom_op.linearize(lambda w: recurrent(w, maximum_iterations=3), w)
    return linear.vjp(linear.jvp(V))


def _hessian(w):
    return custom_op.jvp(gradient_of(lambda w: recurrent(w, maximum_iterations=3)), w, V)[1]


def _slope_of_tangents(w):
    return gradient_of(lambda w: custom_op.jvp(CASES["scan"], w, V)[1])(w)


def _hessian_of_checks(w):
    return custom_op.jvp(gradient_of(checks_everywhere), w, V)[1]


def test_a_check_inside_still_raises():
    with pytest.raises(tf.errors.InvalidArgumentError, match="checked"):
        custom_op.jvp(lambda w: checks_everywhere(w * np.nan), W, V)


@pytest.mark.parametrize(
    "product", [_gauss_newton, _hessian, _slope_of_tangents, _hessian_of_checks]
)
def test_every_mode_gives_the_same(product):
    def unrolled(w):
        h = X
        for _ in range(3):
            h = tf.tanh(h @ w)
        return h

    eager = product(W)
    for settings in ({}, {"jit_compile": True}):
        compiled = tf.function(product, autograph=False, **settings)(W)
        np.testing.assert_allclose(compiled, eager, rtol=1e-10)
    if product is _gauss_newton:
        linear = custom_op.linearize(unrolled, W)
        np.testing.assert_allclose(eager, linear.vjp(linear.jvp(V)), rtol=1e-10)


def test_a_loop_that_runs_no_iteration_passes_its_tangents():
    def network(w):
        return tf.while_loop(lambda h: tf.reduce_sum(h) > 1e9, lambda h: (h * w,), (w * w,))[0]

    np.testing.assert_allclose(custom_op.jvp(network, W, V)[1], 2 * W * V)


def test_gradients_reach_variables_read_in_a_loop():
    scale = tf.Variable(1.5, dtype=tf.float64)

    def network(w):
        return tf.while_loop(
            lambda i, _: i < 3, lambda i, h: (i + 1, h * scale * w), (0, tf.ones_like(w))
        )[1]

    @tf.function(autograph=False)
    def slope(w):
        with tf.GradientTape() as tape:
            product = tf.reduce_sum(custom_op.jvp(network, w, V)[1])
        return tape.gradient(product, scale)

    # (s w)³ has the tangent 3 s³ w² v.
    np.testing.assert_allclose(slope(W), 9 * 1.5**2 * np.sum(W**2 * V), rtol=1e-12)


def test_xla_needs_a_bound_for_the_transpose_only():
    def pushed(w):
        return custom_op.jvp(recurrent, w, V)[1]

    def pulled(w):
        return custom_op.linearize(recurrent, w).vjp(X)

    compiled = tf.function(pushed, autograph=False, jit_compile=True)(W)
    np.testing.assert_allclose(compiled, pushed(W), rtol=1e-12)
    with pytest.raises(custom_op.NotDifferentiableError, match="maximum_iterations"):
        tf.function(pulled, autograph=False, jit_compile=True)(W)


@pytest.mark.parametrize("called", [False, True])
def test_xla_has_no_transpose_of_a_branch_with_a_loop(called):
    x = tf.constant([1.0, 2.0])

    def repeated(x):
        return tf.while_loop(
            lambda i, y: i < 3, lambda i, y: (i + 1, tf.sin(y)), (0, x), maximum_iterations=3
        )[1]

    branch = tf.function(repeated, autograph=False) if called else repeated

    def chosen(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: branch(x), lambda: 2 * x)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = chosen(x)
        return tape.gradient(value, x)

    # The trap: TensorFlow's own error is about an operation that nobody wrote.
    with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
        tf.function(gradient, autograph=False, jit_compile=True)(x)

    def pulled(x):
        return custom_op.linearize(chosen, x).vjp(tf.ones_like(x))

    with pytest.raises(custom_op.NotDifferentiableError, match="cond.*holds a loop.*tf.where"):
        tf.function(pulled, autograph=False, jit_compile=True)(x)
    expected = tf.function(gradient, autograph=False)(x)
    np.testing.assert_allclose(tf.function(pulled, autograph=False)(x), expected, rtol=1e-6)
    pushed = tf.function(
        lambda x: custom_op.jvp(chosen, x, tf.ones_like(x))[1], autograph=False, jit_compile=True
    )
    np.testing.assert_allclose(pushed(x), expected, rtol=1e-6)


def test_random_numbers_inside_are_refused():
    def loop(w):
        return tf.while_loop(
            lambda i, _: i < 2, lambda i, h: (i + 1, h * w * tf.random.uniform([])), (0, w)
        )[1]

    def branch(w):
        return tf.cond(
            tf.reduce_sum(w) > 0, lambda: w * tf.random.uniform([], dtype=w.dtype), lambda: w
        )

    for function, what in ((loop, "runs a loop"), (branch, "takes a branch")):
        with pytest.raises(custom_op.NotDifferentiableError, match=what):
            custom_op.jvp(function, tf.cast(W, tf.float32), tf.cast(V, tf.float32))


RECURRENT_LAYERS = {
    "lstm": lambda: keras.layers.LSTM(2, return_sequences=True, dtype="float64"),
    "gru": lambda: keras.layers.GRU(2, go_backwards=True, dtype="float64"),
    "simple": lambda: keras.layers.Bidirectional(
        keras.layers.SimpleRNN(2, dtype="float64"), dtype="float64"
    ),
}


@pytest.mark.parametrize(
    "kind", ["lstm", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gru", "simple"))]
)
def test_recurrent_layers_of_keras(kind):
    layer = RECURRENT_LAYERS[kind]()
    inputs = tf.constant(_random.normal(size=(2, 3, 4)))
    layer.build(inputs.shape)
    weights = [tf.constant(_random.normal(size=v.shape)) for v in layer.trainable_variables]
    fixed = [variable.value for variable in layer.non_trainable_variables]
    custom_op.check_rule(lambda p: layer.stateless_call(p, fixed, inputs)[0], weights)


@tf.custom_gradient
def _stated_cube(x):
    """x³; its derivative reads x, which may stand outside the branch or loop it is called in."""
    return x**3, lambda upstream: 3 * x**2 * upstream


_AROUND = {
    "cond": lambda f, x: tf.cond(tf.reduce_sum(x) > 9, lambda: tf.sin(x), lambda: f(x)),
    "case": lambda f, x: tf.switch_case(tf.constant(1), [lambda: tf.sin(x), lambda: f(x)]),
    "call": lambda f, x: tf.function(lambda: f(x), autograph=False)(),
    "loop": lambda f, x: tf.while_loop(
        lambda i, _: i < 2, lambda i, h: (i + 1, h + f(x)), (0, x), maximum_iterations=2
    )[1],
}


@pytest.mark.parametrize("name", _AROUND)
def test_custom_gradients_that_read_what_stands_around(name):
    targets, v = np.ones((3, 2)), np.arange(6.0)

    def products(cube, x):
        def network(x):
            return _AROUND[name](cube, tf.tanh(x))

        gauss_newton = custom_op.gauss_newton(network, x, "squared_error", targets)
        hessian = custom_op.hessian(network, x, "squared_error", targets)
        return gauss_newton @ v, hessian @ v

    x = tf.constant(np.random.default_rng(1).normal(size=(3, 2)))
    expected = tf.function(lambda x: products(lambda h: h**3, x), autograph=False)(x)
    for xla in (False, True):
        compiled = tf.function(
            lambda x: products(_stated_cube, x), autograph=False, jit_compile=xla
        )
        for got, wanted in zip(compiled(x), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)
