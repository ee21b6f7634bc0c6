"""Whole networks of `keras.applications`, and a small transformer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op

CLASSES = 5
NETWORKS = {
    "ResNet50V2": 32,
    "MobileNetV2": 32,
    "EfficientNetV2B0": 32,
    "ConvNeXtTiny": 32,
}


def _network(name, training, dtype):
    keras.utils.set_random_seed(0)
    size = NETWORKS[name]
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype.name)
    try:
        model = getattr(keras.applications, name)(
            weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None
        )
    finally:
        keras.config.set_dtype_policy(policy)
    random = np.random.default_rng(1)
    x = tf.constant(random.uniform(0, 255, size=(2, size, size, 3)), dtype)
    state = [variable.value for variable in model.non_trainable_variables]

    def network(parameters):
        return model.stateless_call(parameters, state, x, training=training)[0]

    return network, [tf.constant(variable.value) for variable in model.trainable_variables]


def _dot(left, right):
    return tf.add_n([tf.reduce_sum(a * b) for a, b in zip(left, right, strict=True)])


def _direction(parameters, seed):
    """Random, in proportion to each parameter's size."""
    return [
        tf.random.stateless_normal(p.shape, [seed, i], dtype=p.dtype)
        * (tf.math.reduce_std(p) + 1e-2)
        for i, p in enumerate(parameters)
    ]


@pytest.mark.slow
# The normalisations of a batch of 2 amplify rounding: float64.
@pytest.mark.parametrize(("training", "dtype"), [(False, tf.float32), (True, tf.float64)])
@pytest.mark.parametrize("name", NETWORKS)
def test_application(name, training, dtype):
    """Jv against TensorFlow's accumulator, Jᵀu against its tape, Gv against both."""
    network, parameters = _network(name, training, dtype)
    tolerance = 2e-3 if dtype == tf.float32 else 1e-8
    v, w = _direction(parameters, 1), _direction(parameters, 2)
    u = tf.random.stateless_normal([2, CLASSES], [7, 7], dtype=dtype)
    targets = tf.constant([1, 3])

    @tf.function(autograph=False)
    def ours(parameters, v, w, u):
        G = custom_op.gauss_newton(network, parameters, "softmax_cross_entropy", targets)
        linear = custom_op.linearize(network, parameters)
        return linear.outputs, linear.jvp(v), linear.vjp(u), G @ v, G @ w

    @tf.function(autograph=False)
    def theirs(parameters, v, u):
        with tf.GradientTape() as tape, tf.autodiff.ForwardAccumulator(parameters, v) as forward:
            tape.watch(parameters)
            outputs = network(parameters)
        pushed = forward.jvp(outputs)
        s = tf.nn.softmax(outputs)
        inner = (s * pushed - s * tf.reduce_sum(s * pushed, -1, keepdims=True)) / 2
        with tf.GradientTape() as again:
            again.watch(parameters)
            value = tf.reduce_sum(network(parameters) * inner)
        return (
            outputs,
            pushed,
            tape.gradient(outputs, parameters, u),
            again.gradient(value, parameters),
        )

    outputs, pushed, pulled, product, other = ours(parameters, v, w, u)
    expected = theirs(parameters, v, u)

    def close(got, right):
        norm = tf.sqrt(_dot(right, right))
        difference = [a - b for a, b in zip(got, right, strict=True)]
        assert tf.sqrt(_dot(difference, difference)) <= tolerance * norm

    close([outputs], [expected[0]])
    close([pushed], [expected[1]])
    close(pulled, expected[2])
    close(product, expected[3])
    np.testing.assert_allclose(_dot(pulled, v), tf.reduce_sum(u * pushed), rtol=tolerance)
    np.testing.assert_allclose(_dot(w, product), _dot(v, other), rtol=5 * tolerance)
    assert _dot(v, product) > 0


def _transformer():
    """Embeddings and places, one block of attention and a gated dense layer, tied logits."""
    keras.utils.set_random_seed(3)
    layers, words, width, length = keras.layers, 5, 4, 3
    settings = {"dtype": "float64"}
    ids = keras.Input([length], batch_size=2, dtype="int32")
    embedding = layers.Embedding(words, width, **settings)
    places = layers.Embedding(length, width, **settings)(keras.ops.arange(length))
    h = embedding(ids) + places
    normal = layers.LayerNormalization(**settings)(h)
    h = h + layers.MultiHeadAttention(2, 2, **settings)(normal, normal, use_causal_mask=True)
    normal = layers.LayerNormalization(**settings)(h)
    h = h + layers.Dense(width, **settings)(layers.Dense(6, activation="gelu", **settings)(normal))
    model = keras.Model(ids, layers.Dense(words, **settings)(h))
    data = np.random.default_rng(4).integers(0, words, size=(2, length + 1))
    random = np.random.default_rng(5)
    parameters = [
        tf.constant(variable.numpy() + 0.3 * random.normal(size=variable.shape))
        for variable in model.trainable_variables
    ]

    def network(parameters):
        return model.stateless_call(parameters, [], data[:, :-1].astype("int32"))[0]

    return network, parameters, tf.constant(data[:, 1:])


def test_transformer():
    network, parameters, targets = _transformer()
    v = [
        tf.random.stateless_normal(p.shape, [1, i], dtype=tf.float64)
        for i, p in enumerate(parameters)
    ]

    def flat(structure):
        return tf.concat([tf.reshape(leaf, [-1]) for leaf in structure], 0)

    def loss(parameters):
        logits = network(parameters)
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
        )

    @tf.function(autograph=False)
    def dense(parameters):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            outputs = tf.reshape(network(parameters), [-1])
        columns = tape.jacobian(outputs, parameters, experimental_use_pfor=False)
        return tf.concat([tf.reshape(c, [outputs.shape[0], -1]) for c in columns], 1)

    @tf.function(autograph=False)
    def gradient(parameters):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            value = loss(parameters)
        return flat(tape.gradient(value, parameters))

    @tf.function(autograph=False)
    def products(parameters):
        linear = custom_op.linearize(network, parameters)
        arguments = (network, parameters, "softmax_cross_entropy", targets)
        G, H = custom_op.gauss_newton(*arguments), custom_op.hessian(*arguments)
        return linear.outputs, linear.jvp(v), linear.vjp(linear.outputs), G @ v, H @ v

    J = dense(parameters).numpy()
    outputs, pushed, pulled, gauss, hessian = products(parameters)
    np.testing.assert_allclose(flat([pushed]), J @ flat(v).numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(flat(pulled), J.T @ flat([outputs]).numpy(), atol=1e-12, rtol=1e-10)

    rows = tf.reshape(outputs, [-1, outputs.shape[-1]])
    s = tf.nn.softmax(rows).numpy()
    blocks = [np.diag(row) - np.outer(row, row) for row in s]
    through = np.concatenate(
        [b @ r for b, r in zip(blocks, (J @ flat(v).numpy()).reshape(s.shape), strict=True)]
    )
    np.testing.assert_allclose(flat(gauss), J.T @ through / len(s), rtol=1e-9, atol=1e-13)

    # With the stock layer normalisation, where TensorFlow's own second derivatives are wrong.
    step = 1e-4
    at = {
        k: gradient([p + k * step * t for p, t in zip(parameters, v, strict=True)])
        for k in (-2, -1, 1, 2)
    }
    expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(flat(hessian), expected, atol=1e-6 * scale)
