"""Selections, and the poolings made of them, compiled by XLA or by a mask."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.linear_maps import paired
from custom_op.linear_maps import selection as selections

_random = np.random.default_rng(5)
SHAPE = (2, 5, 7, 3)  # a row and a column are left over
CHOSEN = _random.integers(5, size=(2, 2, 3, 3))  # a place in the window, or 4 for none
TANGENT = _random.normal(size=SHAPE)
BIAS = _random.normal(size=3)
COTANGENT = _random.normal(size=(2, 2, 3, 3))


@pytest.fixture(params=["compiled", "uncompiled"])
def kernels(request, monkeypatch):
    threshold = 0 if request.param == "compiled" else 2**60
    monkeypatch.setattr(paired, "COMPILED_FROM", threshold)


def _mask():
    mask = np.zeros(SHAPE, bool)
    for b, i, j, c in np.ndindex(*CHOSEN.shape):
        if CHOSEN[b, i, j, c] < 4:
            row, column = divmod(CHOSEN[b, i, j, c], 2)
            mask[b, 2 * i + row, 2 * j + column, c] = True
    return mask


def _summed(tangent, bias):
    kept = np.where(_mask(), tangent + bias, 0)[:, :4, :6]
    return kept.reshape(2, 2, 2, 3, 2, 3).sum((2, 4))


def _spread(cotangent):
    wide = np.zeros(SHAPE)
    wide[:, :4, :6] = cotangent.repeat(2, 1).repeat(2, 2)
    return np.where(_mask(), wide, 0)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
def test_first_maxima_as_tensorflow(window, positive):
    values = tf.constant(_random.integers(-2, 2, size=SHAPE), tf.float64)
    values = tf.nn.relu(values) if positive else values
    settings = {"ksize": [1, *window, 1], "strides": [1, *window, 1], "padding": "VALID"}
    pooled = tf.raw_ops.MaxPool(input=values, **settings)
    ones = tf.cast(pooled > 0, tf.float64) if positive else tf.ones_like(pooled)
    mask = tf.raw_ops.MaxPoolGrad(
        orig_input=tf.cast(values, tf.float32),
        orig_output=tf.cast(pooled, tf.float32),
        grad=tf.cast(ones, tf.float32),
        **settings,
    )
    chosen = selections.first_maxima(values, pooled, window, positive)
    assert (chosen.dtype, chosen.shape) == (tf.uint8, pooled.shape)
    with tf.GradientTape() as tape:
        tape.watch(values)
        taken = selections.selection(chosen, window, values.shape)(values)
    np.testing.assert_array_equal(tape.gradient(taken, values), mask)


@pytest.mark.parametrize("with_bias", [False, True])
def test_values_and_derivatives(with_bias):
    bias = BIAS if with_bias else np.zeros(3)

    @tf.function(autograph=False)
    def run(tangent, bias, cotangent):
        chosen = tf.constant(CHOSEN, tf.uint8)
        take = selections.selection(chosen, (2, 2), tf.TensorShape(SHAPE))
        with tf.GradientTape() as outer:
            outer.watch(cotangent)
            with tf.GradientTape() as tape:
                tape.watch((tangent, bias))
                taken = take(tangent, bias) if with_bias else take(tangent)
            pulled = tape.gradient(taken, (tangent, bias), cotangent, unconnected_gradients="zero")
            along = tf.reduce_sum(pulled[0] * tangent) + tf.reduce_sum(pulled[1] * bias)
        return taken, pulled, outer.gradient(along, cotangent)

    taken, (d_tangent, d_bias), again = run(
        tf.constant(TANGENT), tf.constant(bias), tf.constant(COTANGENT)
    )
    np.testing.assert_allclose(taken, _summed(TANGENT, bias), atol=1e-14)
    np.testing.assert_allclose(d_tangent, _spread(COTANGENT), atol=1e-14)
    expected = _spread(COTANGENT).sum((0, 1, 2)) if with_bias else np.zeros(3)
    np.testing.assert_allclose(d_bias, expected, atol=1e-13)
    # The map is linear: its transpose's transpose is the map.
    np.testing.assert_allclose(again, taken, atol=1e-14)


IMAGES = tf.constant(_random.normal(size=(2, 4, 4, 3)))
KERNEL = tf.constant(_random.normal(size=(3, 3, 3, 2)))
FIXED = tf.constant(_random.normal(size=(3, 3, 3, 2)))
OFFSET = tf.constant([0.3, -0.2], tf.float64)


def _biased(p):
    values = tf.nn.conv2d(IMAGES, p["kernel"], 1, "SAME")
    return tf.nn.max_pool2d(tf.nn.relu(tf.nn.bias_add(values, p["bias"])), 2, 2, "SAME")


def _added(p):
    values = tf.nn.conv2d(IMAGES, p["kernel"], 1, "SAME")
    return tf.nn.max_pool2d(tf.nn.relu(tf.reshape(p["bias"], [1, 1, 1, 2]) + values), 2, 2, "SAME")


def _bias_only(p):
    values = tf.nn.conv2d(IMAGES, FIXED, 1, "SAME")
    kernel = tf.reduce_sum(p["kernel"] ** 2)
    return kernel * tf.nn.max_pool2d(tf.nn.relu(values + p["bias"]), 2, 2, "SAME")


def _read_twice(p):
    biased = tf.nn.conv2d(IMAGES, p["kernel"], 1, "SAME") + p["bias"]
    rectified = tf.nn.relu(biased)
    return tf.nn.max_pool2d(rectified, 2, 2, "SAME") + rectified[:, ::2, ::2] * biased[:, ::2, ::2]


def _relu_is_an_output(p):
    rectified = tf.nn.relu(tf.nn.conv2d(IMAGES, p["kernel"], 1, "SAME") + p["bias"])
    return tf.nn.max_pool2d(rectified, 2, 2, "SAME"), rectified


@pytest.mark.parametrize("function", [_biased, _added, _bias_only, _read_twice, _relu_is_an_output])
def test_poolings_behind_a_bias_and_a_relu(kernels, function):
    point = {"kernel": KERNEL, "bias": OFFSET}
    tangents = tf.nest.map_structure(
        lambda value: tf.constant(_random.normal(size=value.shape)), point
    )

    @tf.function(autograph=False)
    def run():
        linear = custom_op.linearize(function, point)
        cotangents = tf.nest.map_structure(tf.sin, linear.outputs)
        return linear.jvp(tangents), linear.vjp(cotangents)

    with (
        tf.GradientTape() as tape,
        tf.autodiff.ForwardAccumulator(point, tangents) as accumulator,
    ):
        tape.watch(point)
        outputs = function(point)
        cotangents = tf.nest.map_structure(tf.sin, outputs)
    expected = accumulator.jvp(outputs), tape.gradient(outputs, point, cotangents)
    tf.nest.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), run(), expected
    )


def test_a_transpose_computes_no_tangents(kernels):
    """TensorFlow's gradients read shapes; nothing may compute a tangent to have its shape."""

    def two_layers(p):
        return tf.nn.conv2d(_biased(p), p["second"], 1, "SAME")

    @tf.function(autograph=False)
    def run(point, cotangent):
        return custom_op.linearize(two_layers, point).vjp(cotangent)

    point = {"kernel": KERNEL, "bias": OFFSET, "second": KERNEL[:, :, :2]}
    cotangent = tf.ones([2, 2, 2, 2], tf.float64)
    graph = run.get_concrete_function(point, cotangent).graph
    reached, waiting = set(), [tensor.op for tensor in graph.outputs]
    while waiting:
        op = waiting.pop()
        # Shapes that TensorFlow's optimizer knows become constants.
        known = op.type in ("Shape", "ShapeN") and all(
            tensor.shape.is_fully_defined() and _shape_is_inferred(tensor) for tensor in op.inputs
        )
        if op.name not in reached:
            reached.add(op.name)
            waiting += [] if known else [tensor.op for tensor in op.inputs]
    assert not [name for name in reached if name.startswith("transpose/r_Conv2D")]


def _shape_is_inferred(tensor):
    """Whether TensorFlow's optimizer sees the shape: not behind a call that XLA compiles."""
    op = tensor.op
    if op.type == "IdentityN":
        return _shape_is_inferred(op.inputs[op.outputs.index(tensor)])
    return op.type not in ("PartitionedCall", "StatefulPartitionedCall")


def test_eager_products_of_a_network_are_differentiable_in_its_weights(kernels):
    # The gradient of a selection reads where the maxima are, a tensor of the linearization.
    images = tf.constant(_random.normal(size=(2, 6, 6, 2)))
    direction = tf.constant(_random.normal(size=(3, 3, 2, 2)))

    def network(kernel):
        features = tf.tanh(tf.nn.conv2d(images, kernel, 1, "SAME"))
        features = tf.nn.relu(tf.nn.conv2d(features, kernel, 1, "SAME") + 0.1)
        return tf.tanh(tf.nn.max_pool2d(features, 2, 2, "SAME"))

    def squared_jvp(kernel):
        return tf.reduce_sum(custom_op.jvp(network, kernel, direction)[1] ** 2)

    def squared_vjp(kernel):
        linearized = custom_op.linearize(network, kernel)
        return tf.reduce_sum(linearized.vjp(tf.ones_like(linearized.outputs)) ** 2)

    kernel = tf.constant(_random.normal(size=(3, 3, 2, 2)))
    for function in (squared_jvp, squared_vjp):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            value = function(kernel)
        slope = tf.reduce_sum(tape.gradient(value, kernel) * direction)
        step = 1e-6
        difference = function(kernel + step * direction) - function(kernel - step * direction)
        np.testing.assert_allclose(slope, difference / (2 * step), rtol=1e-6)
        assert abs(slope) > 1e-2
