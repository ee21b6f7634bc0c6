"""Derivatives by inputs: against nested tapes and closed forms, and derivatives of them in turn."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
import mlhf
from mlhf import derivatives

RANDOM = np.random.default_rng(0)
X = tf.constant(RANDOM.normal(size=(4, 2)) * 0.6 + 0.1)
WANTED = ["", "x", "xx", "xy", "yyy", "xxy", "xxyy", "xxxx", "xyyy"]
WEIGHTS = [tf.constant(RANDOM.normal(size=shape)) for shape in ((2, 5), (5,), (5, 4), (4,), (4, 1))]


def nested_tapes(function, points, word):
    """The derivative by the coordinates of a word over x and y, a tape inside a tape."""
    if not word:
        return function(points)
    with tf.GradientTape() as tape:
        tape.watch(points)
        total = tf.reduce_sum(nested_tapes(function, points, word[1:]))
    gradient = tape.gradient(total, points, unconnected_gradients="zero")
    column = "xy".index(word[0])
    return gradient[:, column : column + 1]


def dense(weights, points, activation=tf.tanh):
    hidden = activation(points @ weights[0] + weights[1])
    return activation(hidden @ weights[2] + weights[3]) @ weights[4]


def split(points):
    return points[:, :1], points[:, 1:]


def of_one_number(points):
    x, y = split(points)
    z = x * y - 0.3 * x + 0.2
    functions = (tf.sin, tf.cos, tf.exp, tf.sinh, tf.cosh, tf.sigmoid, tf.nn.softplus, tf.math.erf)
    more = (tf.math.erfc, tf.math.expm1, tf.math.atan, tf.nn.elu, tf.square, keras.activations.gelu)
    return tf.add_n([(i + 1) * f(z) for i, f in enumerate(functions + more)])


def of_a_positive_number(points):
    x, y = split(points)
    z = 1.5 + x**2 + 0.5 * tf.sin(y)
    roots = tf.sqrt(z) + tf.math.rsqrt(z) + tf.math.reciprocal(z) + tf.math.log(z)
    return roots + tf.math.log1p(z) + z**2.5 + x / z + 1 / z - tf.math.squared_difference(z, x)


def of_several_axes(points):
    """Products, sums, shapes, and operations whose rule is a nested product."""
    x, y = tf.unstack(points, axis=1)
    pairs = tf.stack([x * y, tf.sin(x), -y], 1)
    outer = pairs[:, :, tf.newaxis] * tf.concat([pairs, pairs**2], 1)[:, tf.newaxis, :]
    squares = tf.matmul(outer, outer, transpose_b=True)
    mixed = tf.reduce_mean(squares, 2) + tf.reshape(tf.transpose(pairs), [3, -1])[0][:, tf.newaxis]
    soft = tf.nn.softmax(tf.pad(mixed, [[0, 0], [1, 0]]))
    return tf.reduce_sum(tf.asinh(soft) * tf.cast([1, 2, 3, 4], soft.dtype), 1, keepdims=True)


FUNCTIONS = {
    "network": lambda points: dense(WEIGHTS, points),
    "one number": of_one_number,
    "positive": of_a_positive_number,
    "axes": of_several_axes,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_partials_are_those_of_nested_tapes(name):
    function = FUNCTIONS[name]
    # Nested products of order 4 take long to trace.
    wanted = ["xxy", "xy"] if name == "axes" else WANTED
    found = derivatives.partials(function, X, wanted, "xy")
    for word, derivative in zip(wanted, found, strict=True):
        expected = nested_tapes(function, X, word).numpy()
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(derivative, expected, rtol=1e-11, atol=1e-12 * scale)


def test_the_laplacian_is_the_sum_of_its_second_derivatives():
    for function in (FUNCTIONS["network"], FUNCTIONS["axes"]):
        value, gradient, laplacian = derivatives.laplacian(function, X)
        expected = {word: nested_tapes(function, X, word) for word in ("", "x", "y", "xx", "yy")}
        np.testing.assert_allclose(value, expected[""], rtol=1e-13)
        both = np.concatenate([expected["x"], expected["y"]], 1)[:, None]
        np.testing.assert_allclose(gradient, both, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(laplacian, expected["xx"] + expected["yy"], rtol=1e-10)
    weighted = derivatives.laplacian(FUNCTIONS["network"], X, [1, 0], [2.0, -3.0])
    network = FUNCTIONS["network"]
    of_network = [nested_tapes(network, X, word) for word in ("yy", "xx", "y")]
    np.testing.assert_allclose(weighted.laplacian, 2 * of_network[0] - 3 * of_network[1], rtol=1e-9)
    np.testing.assert_allclose(weighted.gradient[:, :, 0], of_network[2], rtol=1e-11)


def test_a_collapsed_sum_passes_functions_that_are_differentiated_by_nested_products():
    def swish(points):
        return dense(WEIGHTS, points, tf.nn.silu)

    found = derivatives.laplacian(swish, X)
    expected = nested_tapes(swish, X, "xx") + nested_tapes(swish, X, "yy")
    np.testing.assert_allclose(found.laplacian, expected, rtol=1e-10)


def test_directions_may_differ_from_point_to_point():
    directions = tf.constant(RANDOM.normal(size=(3, 4, 2)))
    u = derivatives.taylor(FUNCTIONS["network"], X, directions, 3)
    same = derivatives.taylor(FUNCTIONS["network"], X, directions[:, 0], 3)
    assert [leaf.shape for leaf in u] == [(4, 1)] + 3 * [(3, 4, 1)]
    steps = np.array([-2, -1, 0, 1, 2])
    stencils = {1: [1, -8, 0, 8, -1], 2: [-1, 16, -30, 16, -1]}
    for order, stencil in stencils.items():
        h = 1e-3
        along = [FUNCTIONS["network"](X + h * s * directions[1]) for s in steps]
        expected = sum(c * y for c, y in zip(stencil, along, strict=True)) / (12 * h**order)
        np.testing.assert_allclose(u[order][1], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(same[3][:, 0], u[3][:, 0], rtol=1e-12)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_residual_is_differentiable_by_the_weights(mode):
    """A Gauss-Newton product of a Poisson residual, against a Jacobian by central differences."""

    def residual(weights, points):
        return derivatives.laplacian(lambda p: dense(weights, p), points).laplacian + 1

    v = [tf.constant(RANDOM.normal(size=w.shape)) for w in WEIGHTS]

    def product(weights, points):
        operator = custom_op.gauss_newton(
            lambda w: residual(w, points),
            weights,
            "squared_error",
            tf.zeros([4, 1], tf.float64),
            unconnected="zero",
        )
        return operator.gradient(), operator.matvec(v)

    run = {
        "graph": tf.function(product),
        "xla": tf.function(product, jit_compile=True),
    }[mode]
    gradient, gv = run(WEIGHTS, X)

    def moved(by, size):
        return [w + size * d for w, d in zip(WEIGHTS, by, strict=True)]

    compiled = tf.function(residual)
    h = 1e-5
    directions, columns = [], []
    for place, weight in enumerate(WEIGHTS):
        for entry in range(weight.shape.num_elements()):
            unit = [np.zeros(w.shape) for w in WEIGHTS]
            unit[place].reshape(-1)[entry] = 1
            directions.append(unit)
            apart = compiled(moved(unit, h), X) - compiled(moved(unit, -h), X)
            columns.append(np.reshape(apart, -1) / (2 * h))
    jacobian = np.array(columns).T
    r = np.reshape(compiled(WEIGHTS, X), -1)

    def flat(structure):
        return np.concatenate([np.reshape(leaf, -1) for leaf in structure])

    np.testing.assert_allclose(flat(gradient), jacobian.T @ r / 4, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(flat(gv), jacobian.T @ jacobian @ flat(v) / 4, rtol=1e-5, atol=1e-7)


def test_a_keras_model_and_several_outputs():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(2)]
    )
    points = tf.cast(X, tf.float32)
    both = derivatives.partials(
        lambda p: {"u": model(p)[:, :1], "v": model(p)[:, 1:]}, points, ["y", (0, 1)], ["x", "y"]
    )
    for place, name in enumerate("uv"):
        for found, word in zip(both, ("y", "xy"), strict=True):
            column = slice(place, place + 1)
            expected = nested_tapes(lambda p, c=column: model(p)[:, c], points, word)
            np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)


def test_a_residual_that_is_made_eagerly_has_a_gradient():
    with tf.GradientTape() as tape:
        tape.watch(WEIGHTS[0])
        (mixed,) = derivatives.partials(lambda p: dense(WEIGHTS, p), X, ["xy"], "xy")
        total = tf.reduce_sum(mixed)
    gradient = tape.gradient(total, WEIGHTS[0])
    with tf.GradientTape() as tape:
        tape.watch(WEIGHTS[0])
        total = tf.reduce_sum(nested_tapes(lambda p: dense(WEIGHTS, p), X, "xy"))
    np.testing.assert_allclose(gradient, tape.gradient(total, WEIGHTS[0]), rtol=1e-11)


def test_an_optimizer_fits_an_equation():
    def residual(parameters, points):
        u = derivatives.laplacian(lambda p: dense(parameters, p), points)
        return u.laplacian - u.value

    points = tf.constant(RANDOM.uniform(size=(12, 2)))
    objective = mlhf.Objective(residual, "squared_error", points, tf.ones([12, 1], tf.float64))
    optimizer = mlhf.MartensHessianFree(1.0, 10)
    parameters, state = WEIGHTS, optimizer.init(WEIGHTS)
    losses = []
    for _ in range(5):
        parameters, state, _, metrics = optimizer.step(objective, parameters, state)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.1 * losses[0]


def test_relu_is_refused_by_name_unless_it_is_meant():
    def cubed(points):
        return dense(WEIGHTS, points, lambda z: tf.nn.relu(z) ** 3)

    with pytest.raises(ValueError, match="Relu.*zero almost everywhere"):
        derivatives.laplacian(cubed, X)
    derivatives.partials(cubed, X, ["x"], "xy")
    found = derivatives.laplacian(cubed, X, allow_kinks=True).laplacian
    expected = nested_tapes(cubed, X, "xx") + nested_tapes(cubed, X, "yy")
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("wanted", "names", "words"),
    [
        (["z"], "xy", "names among"),
        (["x"], None, "numbers from 0 to 1"),
        (["xxxyy"], "xy", "up to order 4"),
        ([(2,)], "xy", "numbers from 0 to 1"),
        (["x"], "xyz", "2 different names"),
        ([1.5], "xy", "word or tuple"),
    ],
)
def test_derivatives_that_make_no_sense_are_refused(wanted, names, words):
    with pytest.raises(ValueError, match=words):
        derivatives.partials(FUNCTIONS["network"], X, wanted, names)


def test_points_and_outputs_that_do_not_fit_are_refused():
    network = FUNCTIONS["network"]
    with pytest.raises(ValueError, match=r"\[B, d\]"):
        derivatives.laplacian(network, X[0])
    with pytest.raises(TypeError, match="int"):
        derivatives.laplacian(network, [[1, 2]])
    with pytest.raises(ValueError, match="one row per point"):
        derivatives.laplacian(lambda p: tf.reduce_sum(network(p), 0), X)
    with pytest.raises(ValueError, match="directions of shape"):
        derivatives.taylor(network, X, tf.ones([3], tf.float64))
    with pytest.raises(ValueError, match="different coordinates"):
        derivatives.laplacian(network, X, [0, 0])
    with pytest.raises(ValueError, match="order 5"):
        derivatives.taylor(network, X, tf.ones([1, 2], tf.float64), 5)
