"""Jacobian products of whole networks, in every mode, against complex steps."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from tests.custom_op import cases


def _relative(got, expected):
    return np.max(np.abs(got - expected)) / np.max(np.abs(expected))


def _modes(xla=True):
    modes = {
        "eager": lambda function: function,
        "graph": lambda function: tf.function(function, autograph=False),
    }
    if xla:
        modes["xla"] = lambda function: tf.function(function, autograph=False, jit_compile=True)
    return modes


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("name", cases.CASES)
def test_products_equal_a_dense_jacobian(name, mode):
    case = cases.CASES[name]

    def products(parameters, tangents, cotangents):
        linear = custom_op.linearize(case.network, parameters)
        return linear.outputs, linear.jvp(tangents), linear.vjp(cotangents)

    t = case.random(1)
    dense, expected = cases.jacobian(name), cases.outputs(name)
    u = tf.constant(np.random.default_rng(2).normal(size=expected.shape))
    z, pushed, pulled = _modes()[mode](products)(case.tensors(), t, u)
    assert _relative(z.numpy(), expected) < 1e-12
    assert _relative(cases.flat(pushed), dense @ cases.flat(t)) < 1e-10
    assert _relative(cases.flat(pulled), dense.T @ cases.flat(u)) < 1e-10
    tf.nest.assert_same_structure(pulled, case.parameters)


def _third_power(x):
    return {"cube": x["a"] ** 3 * x["b"], "b": x["b"]}


def test_structures_go_in_and_out():
    x = {"a": tf.constant([1.0, 2.0]), "b": tf.constant([3.0, 5.0])}
    outputs, tangents = custom_op.jvp(
        _third_power, x, {"a": tf.constant([1.0, 0.0]), "b": tf.constant([0.0, 1.0])}
    )
    np.testing.assert_allclose(outputs["cube"], [3.0, 40.0])
    np.testing.assert_allclose(tangents["cube"], [9.0, 8.0])
    np.testing.assert_allclose(tangents["b"], [0.0, 1.0])


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_single_tensor_is_a_structure(mode):
    @_modes()[mode]
    def run(x):
        linear = custom_op.linearize(tf.exp, x)
        return linear.jvp(tf.ones_like(x)), linear.vjp(tf.ones_like(x))

    pushed, pulled = run(tf.constant([0.0, 1.0]))
    np.testing.assert_allclose(pushed, [1.0, np.e], rtol=1e-6)
    np.testing.assert_allclose(pulled, [1.0, np.e], rtol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_identity_constants_and_the_same_tensor_twice(mode):
    constant = tf.constant([7.0])

    @_modes()[mode]
    def run(x):
        linear = custom_op.linearize(lambda p: (p[0], constant, p[0] * p[1], constant), (x, x))
        unit = tf.ones([1])
        return linear.jvp((unit, 10 * unit)), linear.vjp((unit, unit, unit, unit))

    pushed, pulled = run(tf.constant([3.0]))
    np.testing.assert_allclose(tf.concat(pushed, 0), [1.0, 0.0, 33.0, 0.0])
    np.testing.assert_allclose(tf.concat(pulled, 0), [4.0, 3.0])


def test_variables_are_primals_and_used_elsewhere_too():
    variable = tf.Variable([2.0])

    @tf.function(autograph=False)
    def run():
        other_use = variable * 100.0
        linear = custom_op.linearize(lambda x: x**2, variable)
        return linear.jvp(tf.constant([1.0])) + 0.0 * other_use

    np.testing.assert_allclose(run(), [4.0])
    np.testing.assert_allclose(custom_op.linearize(tf.square, variable).vjp(tf.ones([1])), [4.0])


def test_a_gather_is_transposed_to_a_dense_tensor():
    @tf.function(autograph=False)
    def run(x):
        return custom_op.linearize(lambda x: tf.gather(x, [0, 2, 2]), x).vjp(tf.ones([3, 1]))

    pulled = run(tf.zeros([4, 1]))
    assert isinstance(pulled, tf.Tensor)
    np.testing.assert_allclose(pulled[:, 0], [1, 0, 2, 0])


def test_unknown_batch_gives_the_same_numbers():
    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 2, 2)))
    images = tf.constant(np.random.default_rng(1).normal(size=(2, 4, 4, 2)))

    def run(images, kernel):
        def network(k):
            h = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(images, k, 1, "SAME")), 2, 2, "SAME")
            return tf.reduce_mean(h / (1 + tf.reduce_sum(h**2, [1, 2], keepdims=True)), [1, 2])

        linear = custom_op.linearize(network, kernel)
        return linear.vjp(linear.jvp(kernel))

    unknown = tf.TensorSpec([None, 4, 4, 2], tf.float64)
    dynamic = tf.function(
        run, autograph=False, input_signature=[unknown, tf.TensorSpec(kernel.shape, tf.float64)]
    )
    np.testing.assert_allclose(dynamic(images, kernel), run(images, kernel), rtol=1e-12)


def test_one_linearization_serves_nested_graphs():
    @tf.function(autograph=False)
    def run(x):
        linear = custom_op.linearize(lambda x: tf.sin(x) * tf.reduce_sum(x), x)

        def both(v):
            return linear.vjp(linear.jvp(v))

        def outer(i, v):
            return i + 1, tf.while_loop(
                lambda j, _: j < 1, lambda j, v: (j + 1, both(v)), (0, both(v))
            )[1]

        return both(both(both(x))), both(tf.while_loop(lambda i, _: i < 1, outer, (0, x))[1])

    unrolled, looped = run(tf.constant([0.3, 1.2], tf.float64))
    np.testing.assert_allclose(looped, unrolled, rtol=1e-14)


def test_linearize_inside_a_loop():
    @tf.function(autograph=False)
    def newton(x):
        def step(i, x):
            linear = custom_op.linearize(lambda x: x**2 - 2.0, x)
            return i + 1, x - linear.outputs / linear.jvp(tf.ones_like(x))

        return tf.while_loop(lambda i, _: i < 6, step, (0, x))[1]

    np.testing.assert_allclose(newton(tf.constant(1.0, tf.float64)), np.sqrt(2), rtol=1e-15)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_stateless_dropout_keeps_its_mask(mode):
    @_modes()[mode]
    def run(x):
        linear = custom_op.linearize(
            lambda x: tf.nn.experimental.stateless_dropout(x, 0.5, seed=[1, 2]), x
        )
        return linear.outputs, linear.jvp(x), linear.vjp(x)

    outputs, pushed, pulled = run(tf.ones([40]))
    assert set(outputs.numpy()) == {0.0, 2.0}
    np.testing.assert_array_equal(pushed, outputs)
    np.testing.assert_array_equal(pulled, outputs)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_an_unconnected_parameter_is_named(mode):
    variable = tf.Variable([2.0])

    def network(p):
        return variable * p["layer"]["scale"]

    @_modes()[mode]
    def run(unconnected):
        p = {"layer": {"kernel": variable, "scale": tf.constant([3.0])}}
        linear = custom_op.linearize(network, p, unconnected=unconnected)
        return linear.vjp(tf.constant([1.0]))

    with pytest.raises(ValueError, match="layer/kernel"):
        run("error")
    pulled = run("zero")
    np.testing.assert_allclose(pulled["layer"]["kernel"], [0.0])
    np.testing.assert_allclose(pulled["layer"]["scale"], [2.0])
    with pytest.raises(ValueError, match="'none'"):
        run("none")


def test_a_parameter_read_for_its_shape_is_unconnected():
    with pytest.raises(ValueError, match="do not depend on"):
        custom_op.linearize(
            lambda p: p[0] * tf.cast(tf.shape(p[1])[0], tf.float32), (tf.ones([2]), tf.ones([3]))
        )


def test_what_is_not_floating_is_refused():
    with pytest.raises(TypeError, match="int32 at 'a'"):
        custom_op.linearize(lambda p: p["a"], {"a": tf.constant(1)})
    with pytest.raises(TypeError, match="outputs, got int64"):
        custom_op.linearize(lambda x: tf.argmax(x), tf.ones([3]))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_wrong_tangents_say_expected_and_got(mode):
    @_modes()[mode]
    def run(tangents):
        return custom_op.linearize(_third_power, {"a": tf.ones([2]), "b": tf.ones([2])}).jvp(
            tangents
        )

    with pytest.raises(ValueError, match=r"(?s)Expected tangents of the structure.*got \[\(2,\)"):
        run([tf.ones([2]), tf.ones([2])])
    with pytest.raises(ValueError, match=r"Expected tangents of shape \(2,\) at 'b', got \(3,\)"):
        run({"a": tf.ones([2]), "b": tf.ones([3])})
    with pytest.raises(TypeError, match="float32 at 'a', got float64"):
        run({"a": tf.ones([2], tf.float64), "b": tf.ones([2])})
    with pytest.raises(ValueError, match="'b', got None"):
        run({"a": tf.ones([2]), "b": None})


def test_wrong_cotangents_say_expected_and_got():
    linear = custom_op.linearize(lambda x: x[:2], tf.ones([3]))
    with pytest.raises(ValueError, match=r"cotangents of shape \(2,\).*got \(3,\)"):
        linear.vjp(tf.ones([3]))


def test_autograph_leaves_the_library_and_the_network_alone():
    # Converting the library's own code would double the time of tracing.
    @tf.function
    def run(x):
        return custom_op.jvp(_branching, x, x)

    with pytest.raises(Exception, match="Using a symbolic"):
        run(tf.constant(1.0))


def _branching(x):
    return x if x > 0 else -x


def test_float32_stays_float32():
    linear = custom_op.linearize(tf.exp, tf.ones([2]))
    assert linear.jvp(tf.ones([2])).dtype == linear.vjp(tf.ones([2])).dtype == tf.float32
