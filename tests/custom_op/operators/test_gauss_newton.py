"""The Gauss-Newton product against a dense matrix, its derivatives, and its cost."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import custom_op
from tests.custom_op import cases

MODES = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "xla": lambda function: tf.function(function, autograph=False, jit_compile=True),
}


def _relative(got, expected):
    return np.max(np.abs(got - expected)) / np.max(np.abs(expected))


def _operator(case, parameters):
    return custom_op.gauss_newton(case.network, parameters, case.loss, case.targets)


def _dot(left, right):
    pairs = zip(tf.nest.flatten(left), tf.nest.flatten(right), strict=True)
    return tf.add_n([tf.reduce_sum(a * b) for a, b in pairs])


def _power(operator, vector, loop):
    """G (G v), in a loop or unrolled."""
    if not loop:
        return operator @ (operator @ vector)
    return tf.while_loop(
        lambda i, _: i < 2, lambda i, v: (i + 1, operator @ v), (0, vector), maximum_iterations=2
    )[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", cases.CASES)
def test_product_equals_the_dense_matrix(name, mode):
    case = cases.CASES[name]
    if mode == "xla" and name not in (
        "mlp_sigmoid",
        "convnet",
        "gates",
        "custom_gradient",
        "rank_3",
    ):
        pytest.skip("compiling takes long, and test_linearization does it for every network")

    def run(parameters, v):
        operator = _operator(case, parameters)
        powers = _power(operator, v, False), _power(operator, v, True)
        return operator @ v, *powers, operator.quadratic_form(v)

    v = case.random(3)
    once, unrolled, looped, form = MODES[mode](run)(case.tensors(), v)
    dense = cases.gauss_newton(name)
    expected = dense @ cases.flat(v)
    assert _relative(cases.flat(once), expected) < 1e-10
    assert _relative(cases.flat(unrolled), dense @ expected) < 1e-10
    assert _relative(cases.flat(looped), dense @ expected) < 1e-10
    assert float(form) == pytest.approx(cases.flat(v) @ expected, rel=1e-10)


def test_the_quadratic_form_takes_flat_vectors_and_no_backward_pass():
    case = cases.CASES["convnet"]

    @tf.function(autograph=False)
    def run(parameters, v):
        operator = _operator(case, parameters)
        return operator.quadratic_form(operator.flatten(v))

    v = case.random(3)
    concrete = run.get_concrete_function(case.tensors(), v)
    expected = cases.flat(v) @ cases.gauss_newton("convnet") @ cases.flat(v)
    assert float(run(case.tensors(), v)) == pytest.approx(expected, rel=1e-10)
    assert not [op for op in concrete.graph.get_operations() if "Backprop" in op.type]


@pytest.mark.parametrize("name", ["mlp_sigmoid", "gates", "mlp_relu", "convnet"])
def test_value_gradient_and_dense(name):
    case = cases.CASES[name]

    @tf.function(autograph=False)
    def run(parameters):
        operator = _operator(case, parameters)
        assert operator.shape == (cases.jacobian(name).shape[1],) * 2
        assert operator.dtype == tf.float64
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            z = case.network(parameters)
            value = custom_op.losses.get(case.loss).value(z, tf.constant(case.targets))
        expected = tape.gradient(value, parameters)
        return operator.loss(), value, operator.gradient(), expected, operator.outputs

    loss, value, gradient, expected, outputs = run(case.tensors())
    np.testing.assert_allclose(loss, value, rtol=1e-14)
    assert _relative(cases.flat(gradient), cases.flat(expected)) < 1e-12
    np.testing.assert_allclose(outputs, cases.outputs(name), rtol=1e-12)
    if name == "gates":
        dense = tf.function(lambda p: _operator(case, p).to_dense(), autograph=False)
        assert _relative(dense(case.tensors()).numpy(), cases.gauss_newton(name)) < 1e-10


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_gradient_of_the_product_is_the_product(mode, loop):
    """With G at a stopped point, the gradient of <u, G²v> in v is G²u, and none goes to w."""
    case = cases.CASES["convnet"]

    def run(parameters, u, v):
        with tf.GradientTape() as tape:
            tape.watch((parameters, v))
            operator = _operator(case, tf.nest.map_structure(tf.stop_gradient, parameters))
            pushed = _power(operator, v, loop)
            inner = _dot(u, pushed)
        to_parameters, to_v = tape.gradient(inner, (parameters, v))
        assert all(leaf is None for leaf in tf.nest.flatten(to_parameters))
        return to_v, _power(operator, u, False)

    got, expected = MODES[mode](run)(case.tensors(), case.random(4), case.random(5))
    assert _relative(cases.flat(got), cases.flat(expected)) < 1e-12


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, "graph") for name in ("mlp_sigmoid", "convnet_overlapping", "gates", "silu")]
    + [("convnet", mode) for mode in ("eager", "graph")]
    + [("silu", "eager")],
)
def test_derivatives_of_products_in_point_and_vector(name, mode):
    case = cases.CASES[name]
    random = np.random.default_rng(6)
    u, du, fixed = (tf.constant(random.normal(size=cases.outputs(name).shape)) for _ in range(3))
    w, dw, v, dv, weights = case.tensors(), *(case.random(seed) for seed in range(7, 11))

    def scalars(w, vectors):
        v, u = vectors
        linear = custom_op.linearize(case.network, w)
        products = (
            (linear.jvp(v), fixed),
            (linear.vjp(u), weights),
            (_operator(case, w) @ v, weights),
        )
        # The sine makes them nonlinear in the vector.
        return [_dot(tf.nest.map_structure(tf.sin, a), b) for a, b in products]

    def slopes(w, vectors, directions):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch((w, vectors))
            values = scalars(w, vectors)
        gradients = [tape.gradient(y, (w, vectors), unconnected_gradients="zero") for y in values]
        return [
            [
                _dot(gradient, direction)
                for gradient, direction in zip(pair, directions, strict=True)
            ]
            for pair in gradients
        ]

    point, directions = (w, (v, u)), (dw, (dv, du))
    got = np.array(MODES[mode](slopes)(*point, directions))

    values = tf.function(scalars, autograph=False)
    step = 1e-6

    def moved(sign, which):
        arguments = list(point)
        arguments[which] = tf.nest.map_structure(
            lambda a, d: a + sign * step * d, point[which], directions[which]
        )
        return np.array(values(*arguments))

    expected = np.stack([(moved(1, i) - moved(-1, i)) / (2 * step) for i in range(2)], 1)
    assert np.all(np.abs(got - expected) < 1e-6 * np.maximum(1, np.abs(expected)))
    assert np.abs(expected).min() > 1e-6


def test_forms_of_the_vector():
    case = cases.CASES["mlp_tanh"]
    operator = _operator(case, case.tensors())
    v = case.random(11)
    expected = cases.flat(operator @ v)
    for vector in (tf.constant(cases.flat(v)), cases.flat(v)):
        np.testing.assert_allclose(operator.matvec(vector), expected, rtol=1e-14)
    as_arrays = tf.nest.map_structure(lambda leaf: leaf.numpy(), v)
    np.testing.assert_allclose(cases.flat(operator @ as_arrays), expected, rtol=1e-14)


def test_a_single_tensor_takes_both_forms():
    case = cases.CASES["custom_gradient"]
    operator = _operator(case, case.tensors())
    v = case.random(12)
    expected = operator @ v
    assert expected.shape == v.shape
    flat = operator @ tf.reshape(v, [-1])
    np.testing.assert_allclose(flat, tf.reshape(expected, [-1]), rtol=1e-14)


def test_wrong_vectors_say_expected_and_got():
    case = cases.CASES["mlp_tanh"]
    operator = _operator(case, case.tensors())
    with pytest.raises(ValueError, match=r"flat vector of shape \(27,\), got \(28,\)"):
        operator @ tf.zeros([28], tf.float64)
    with pytest.raises(TypeError, match="flat vector of dtype float64, got float32"):
        operator @ tf.zeros([27])
    with pytest.raises(ValueError, match="Expected tangents of the structure"):
        operator @ {"w1": tf.zeros([4, 3], tf.float64)}


def test_wrong_networks_say_expected_and_got():
    x = tf.ones([3, 2])
    with pytest.raises(ValueError, match=r"outputs' shape \(3, 2\), got \(3,\)"):
        custom_op.gauss_newton(lambda p: p, x, "squared_error", tf.zeros([3]))
    with pytest.raises(TypeError, match="one output tensor"):
        custom_op.gauss_newton(lambda p: [p, p], x, "squared_error", x)
    with pytest.raises(TypeError, match="got bfloat16"):
        custom_op.gauss_newton(lambda p: tf.cast(p, tf.bfloat16), x, "squared_error", x)
    with pytest.raises(ValueError, match="'nothing'"):
        custom_op.gauss_newton(lambda p: p, x, "nothing", x)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.float32)])
    def dynamic(p):
        return custom_op.gauss_newton(lambda p: p, p, "squared_error", p).outputs

    with pytest.raises(ValueError, match="static shapes"):
        dynamic(x[0])


def test_a_cast_at_the_end_lets_half_precision_through():
    w = tf.cast(tf.constant([[1.0, 2.0]]), tf.bfloat16)
    operator = custom_op.gauss_newton(
        lambda w: tf.cast(w, tf.float32), w, "squared_error", tf.zeros([1, 2])
    )
    product = operator @ tf.ones_like(w)
    assert product.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(product, tf.float32), [[1.0, 1.0]])


def _kernels(function, *arguments):
    """How often each type of operation stands in the graph that TensorFlow runs."""
    state = context.context()
    state.enable_run_metadata()
    try:
        function(*arguments)
        metadata = state.export_run_metadata()
    finally:
        state.disable_run_metadata()
    return collections.Counter(
        node.op.replace("_Fused", "")
        for graphs in metadata.function_graphs
        for node in graphs.post_optimization_graph.node
    )


@pytest.mark.parametrize("loop", [False, True])
def test_the_forward_pass_runs_once_and_no_dummy_tangent(loop):
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(4, 8, 8, 2)))
    w = {
        "k1": tf.constant(random.normal(size=(3, 3, 2, 3))),
        "k2": tf.constant(random.normal(size=(3, 3, 3, 4))),
        "w": tf.constant(random.normal(size=(4, 5))),
    }

    def network(p):
        h = images
        for kernel in (p["k1"], p["k2"]):
            h = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(h, kernel, 1, "SAME")), 2, 2, "SAME")
        # Without care the gradients of these two read the shape of a dummy tangent in a loop.
        return tf.reshape(tf.reduce_mean(h, [1, 2]), [4, -1]) @ p["w"]

    @tf.function(autograph=False)
    def run(w, v):
        operator = custom_op.gauss_newton(network, w, "softmax_cross_entropy", [0, 1, 2, 3])
        return _power(operator, v, loop)

    count = _kernels(run, w, w)
    products = 1 if loop else 2
    # Forward 2; in J v one for the first kernel and two for the second.
    assert count["Conv2D"] == 2 + 3 * products
    assert count["Conv2DBackpropFilter"] == 2 * products
    assert count["Conv2DBackpropInput"] == products
    assert count["MaxPool"] == count["MaxPoolGrad"] == 2
    assert count["AvgPool"] == count["AvgPoolGrad"] == 2 * products
    assert count["MatMul"] == 1 + 4 * products
