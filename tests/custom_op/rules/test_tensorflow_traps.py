"""Where TensorFlow gives a wrong number without an error, and that these products do not.

Each test first shows the trap, so that it tells when TensorFlow has mended it.
"""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.rules import moments

_random = np.random.default_rng(6)
X = _random.normal(size=(5, 4))
Y = _random.integers(0, 3, 5)


def _flat(structure):
    return np.concatenate([np.reshape(leaf, -1) for leaf in tf.nest.flatten(structure)])


def _normalized(layer, **settings):
    """A network with a normalisation in the middle, as a function and its parameters."""
    exact = {"dtype": "float64"}
    layers = [
        keras.layers.Dense(6, **exact),
        layer(**exact),
        keras.layers.Dense(3, **exact),
    ]
    model = keras.Sequential(layers)
    model.build((5, 4))
    parameters = [
        tf.constant(_random.normal(size=variable.shape)) for variable in model.trainable_variables
    ]
    state = [variable.value for variable in model.non_trainable_variables]

    def network(p, inputs=X):
        # The moved statistics that a call in training mode returns are thrown away.
        return model.stateless_call(p, state, inputs, **settings)[0]

    return network, parameters, model


NORMALIZATIONS = {
    "batch": (keras.layers.BatchNormalization, {"training": True}),
    "layer": (keras.layers.LayerNormalization, {}),
    "group": (functools.partial(keras.layers.GroupNormalization, 2), {}),
}


def _tape_in_tape(gradient, parameters, v):
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        slope = tf.add_n(
            [tf.reduce_sum(g * t) for g, t in zip(gradient(parameters), v, strict=True)]
        )
    return _flat(tape.gradient(slope, parameters))


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_second_derivatives_of_normalisations(name):
    layer, settings = NORMALIZATIONS[name]
    network, w, model = _normalized(layer, **settings)
    v = [tf.constant(_random.normal(size=leaf.shape)) for leaf in w]
    loss = custom_op.losses.get("softmax_cross_entropy")

    @tf.function(autograph=False)
    def gradient(p):
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = loss.value(network(p), tf.constant(Y))
        return tape.gradient(value, p)

    step = 1e-5
    ahead, behind = (
        _flat(gradient([a + sign * step * t for a, t in zip(w, v, strict=True)]))
        for sign in (1, -1)
    )
    expected = (ahead - behind) / (2 * step)
    trapped = _tape_in_tape(gradient, w, v)
    assert np.abs(trapped - expected).max() > 1e-3 * np.abs(expected).max()

    moved = _arrays(model.variables)

    @tf.function(autograph=False)
    def products(w, v):
        hessian = custom_op.hessian(network, w, loss, Y)
        return hessian @ v, custom_op.gauss_newton(network, w, loss, Y) @ v

    product, _ = products(w, v)
    np.testing.assert_allclose(_flat(product), expected, atol=1e-7 * np.abs(expected).max())
    # Nor did the products move the statistics.
    for got, value in zip(_arrays(model.variables), moved, strict=True):
        np.testing.assert_array_equal(got, value)


def test_a_pass_over_data_leaves_moving_statistics_alone():
    network, w, model = _normalized(keras.layers.BatchNormalization, training=True)
    before = _arrays(model.variables)
    # The trap: the call itself returns moved ones.
    state = [variable.value for variable in model.non_trainable_variables]
    returned = model.stateless_call(w, state, X, training=True)[1]
    assert any(np.any(a != b) for a, b in zip(_arrays(returned), _arrays(state), strict=True))
    data = [(X, Y)]
    operator = custom_op.gauss_newton(network, w, "softmax_cross_entropy", data=data)
    operator @ w, operator.gradient(), operator.loss()
    for got, value in zip(_arrays(model.variables), before, strict=True):
        np.testing.assert_array_equal(got, value)


def _arrays(values):
    return [keras.ops.convert_to_numpy(value) for value in values]


def test_a_variable_instead_of_the_parameter():
    variable = tf.Variable(_random.normal(size=(4, 3)))

    def network(p):
        del p
        return X @ variable

    primal = tf.convert_to_tensor(variable)
    with tf.autodiff.ForwardAccumulator(primal, tf.ones_like(primal)) as accumulator:
        outputs = network(primal)
    # The trap: no derivative, or a zero that nobody asked for.
    assert accumulator.jvp(outputs) is None
    for make in (custom_op.gauss_newton, custom_op.hessian, custom_op.fisher):
        with pytest.raises(ValueError, match="do not depend on.*read a variable instead"):
            make(network, primal, "softmax_cross_entropy", Y)
    with pytest.raises(ValueError, match="do not depend on.*read a variable instead"):
        custom_op.gauss_newton(
            lambda p, x: network(p), primal, "softmax_cross_entropy", data=[(X, Y)]
        ).matvec(primal)


def test_the_fused_losss_derivative_in_the_labels():
    z, y = tf.constant(_random.normal(size=(2, 3))), tf.constant(_random.uniform(size=(2, 3)))

    def slope_in_labels(gradient_in_outputs):
        with tf.GradientTape() as tape:
            tape.watch(y)
            first = gradient_in_outputs(y)
            scalar = tf.reduce_sum(tf.constant(np.arange(6.0).reshape(2, 3)) * first)
        return tape.gradient(scalar, y, unconnected_gradients="zero")

    def fused(labels):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, z))
        return tape.gradient(value, z)

    loss = custom_op.losses.get("softmax_cross_entropy")
    s, c = tf.nn.softmax(z).numpy(), np.arange(6.0).reshape(2, 3)
    expected = ((s * c).sum(1, keepdims=True) - c) / 2
    np.testing.assert_allclose(slope_in_labels(lambda y: loss.gradient(z, y)), expected)
    # The trap, exactly zero, is mended by the import of custom_op.
    np.testing.assert_allclose(slope_in_labels(fused), expected)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision(dtype):
    """A confident network: its curvature p(1-p)/B is 0 in float16 and has 3 digits in bfloat16."""
    z, v = 11.0, np.float32(1e-3)
    p = 1 / (1 + np.exp(-z))
    exact = p * (1 - p) / 64
    half = tf.sigmoid(tf.constant(z, dtype))
    product = half * (1 - half) * tf.constant(v, dtype) * tf.constant(1 / 64, dtype)
    assert abs(float(product) - exact * v) > 0.1 * exact * v

    w = tf.fill([1, 1], tf.constant(z, dtype))
    x = tf.ones([64, 1], dtype)
    y = np.ones((64, 1), "f4")
    with pytest.raises(TypeError, match=f"got {dtype.name}"):
        custom_op.gauss_newton(lambda w: x @ w, w, "sigmoid_cross_entropy", y)
    # Outputs in float32: so are the loss's Hessian and what it multiplies.
    operator = custom_op.gauss_newton(
        lambda w: tf.cast(x @ w, tf.float32), w, "sigmoid_cross_entropy", y
    )
    tangents = tf.fill([64, 1], v)
    curved = operator._output_product(tangents)
    assert curved.dtype == tf.float32
    np.testing.assert_allclose(curved, np.full((64, 1), exact * v), rtol=1e-4)


def test_keras_losses_compute_in_floatx():
    wrapped = keras.losses.MeanSquaredError(reduction=None)

    class Wrapped(custom_op.losses.MeanLoss):
        def terms(self, outputs, targets):
            return wrapped(targets, outputs)

        def term_axes(self, outputs):
            return 1

        def term_gradients(self, outputs, targets):
            return 2 * (outputs - targets) / 3

        def term_hessian_products(self, outputs, targets, vector):
            return tf.cast(2 * vector / 3, tf.float32)

    z = tf.constant(_random.normal(size=(2, 3)))
    # The trap: float32 from float64.
    assert wrapped(z, 0 * z).dtype == tf.float32
    operator = custom_op.gauss_newton(lambda z: z, z, Wrapped(), 0 * z)
    with pytest.raises(TypeError, match="Wrapped.terms .* float64, got float32.*floatx"):
        operator.loss()
    with pytest.raises(TypeError, match="Wrapped.term_hessian_products .* got float32"):
        operator @ z


def test_what_has_no_second_derivative_in_tensorflow():
    images = tf.constant(_random.normal(size=(1, 4, 4, 2)).astype("f4"))
    w = tf.ones([2])
    # The trap: a bilinear resize's tangent is None.
    with tf.autodiff.ForwardAccumulator(images, images) as accumulator:
        resized = tf.image.resize(images, [3, 3])
    assert accumulator.jvp(resized) is None
    linear = custom_op.linearize(lambda x: tf.image.resize(x, [3, 3]), images)
    np.testing.assert_allclose(linear.jvp(images), linear.outputs, rtol=1e-6)

    w, v = tf.constant([0.7, 1.3]), tf.constant([1.0, -2.0])

    def network(w):
        return tf.nn.local_response_normalization(images * w)

    # Nor has LRN's gradient one of its own.
    with pytest.raises(LookupError, match="LRNGrad"), tf.GradientTape() as outer:
        outer.watch(w)
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = tf.reduce_sum(network(w))
        outer.gradient(tape.gradient(value, w), w)
    hessian = custom_op.hessian(
        lambda w: tf.reshape(network(w), [1, -1]), w, "squared_error", tf.zeros([1, 32])
    )

    def loss(w):
        x = images.numpy() * w
        return 0.5 * np.sum(x**2 / (1 + np.sum(x**2, -1, keepdims=True)))

    step, dense = 1e-4, np.zeros((2, 2))
    for (i, j), signs in itertools.product(np.ndindex(2, 2), itertools.product((1, -1), repeat=2)):
        moved = w.numpy() + step * (signs[0] * np.eye(2)[i] + signs[1] * np.eye(2)[j])
        dense[i, j] += signs[0] * signs[1] * loss(moved) / (4 * step**2)
    np.testing.assert_allclose(hessian @ v, dense @ v.numpy(), rtol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_norms_of_zero(compiled):
    """Where TensorFlow's gradient is not a number, a product is not a wrong number either."""
    zero = {"a": tf.zeros([3], tf.float64), "b": tf.constant([3.0, 4.0], tf.float64)}
    v = {"a": tf.constant([1.0, -2.0, 2.0], tf.float64), "b": tf.constant([1.0, 1.0], tf.float64)}

    def products(norm):
        def both(w, v):
            linear = custom_op.linearize(lambda w: tf.stack([norm(w["a"]), norm(w["b"])]), w)
            return linear.jvp(v), linear.vjp(tf.ones([2], tf.float64))

        return tf.function(both, jit_compile=compiled, autograph=False)(zero, v)

    # The trap: 0/0 in the gradient of a root, in sqrt as in tf.norm.
    for norm in (tf.norm, lambda x: tf.sqrt(tf.reduce_sum(x**2))):
        with tf.GradientTape() as tape:
            tape.watch(zero)
            value = norm(zero["a"])
        assert np.isnan(tape.gradient(value, zero["a"])).all()
        tangents, cotangents = products(norm)
        assert np.isnan(tangents[0]) and np.isnan(cotangents["a"]).all()
        # Nothing of it reaches the norm that is not zero.
        np.testing.assert_allclose(tangents[1], 7 / 5, rtol=1e-14)
        np.testing.assert_allclose(cotangents["b"], [0.6, 0.8], rtol=1e-14)
    # The two ways out: an op that takes the subgradient 0, and a root that stays off 0.
    if not compiled:  # XLA does not know the op
        tangents, cotangents = products(tf.math.reduce_euclidean_norm)
        np.testing.assert_allclose(tangents, [0, 7 / 5], rtol=1e-14)
        np.testing.assert_allclose(cotangents["a"], np.zeros(3))
    small = 1e-4
    tangents, cotangents = products(lambda x: tf.sqrt(tf.reduce_sum(x**2) + small**2))
    np.testing.assert_allclose(tangents, [0, 7 / np.hypot(5, small)], rtol=1e-12)
    np.testing.assert_allclose(cotangents["a"], np.zeros(3))


def test_the_normalisation_test_would_fail_without_the_remedy(monkeypatch):
    """Taking the rule for a stopped mean out brings the wrong number back."""
    network, w, _ = _normalized(keras.layers.LayerNormalization)
    v = [tf.constant(_random.normal(size=leaf.shape)) for leaf in w]

    def product():
        run = tf.function(
            lambda w, v: custom_op.hessian(network, w, "softmax_cross_entropy", Y) @ v,
            autograph=False,
        )
        return _flat(run(w, v))

    right = product()
    monkeypatch.setattr(moments, "_stops", lambda stop, deviation: False)
    assert np.abs(product() - right).max() > 1e-3 * np.abs(right).max()
