"""Rules of the fused normalisations: their tangents, exact at any order."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(8)
X = _random.normal(size=(2, 3, 2, 2))
VECTORS = [_random.normal(size=2) for _ in range(3)] + [_random.uniform(0.5, 2, size=2)]
SETTINGS = {"dtype": tf.float32, "tolerance": 1e-2}
KERNELS = (tf.raw_ops.FusedBatchNorm, tf.raw_ops.FusedBatchNormV2, tf.raw_ops.FusedBatchNormV3)


def _normalize(kernel, x, gamma, beta, mean, variance, **settings):
    outputs = kernel(x=x, scale=gamma, offset=beta, mean=mean, variance=variance, **settings)
    return outputs[:3]


def _batch(p):
    results = {}
    for i, kernel in enumerate(KERNELS):
        results[f"training_{i}"] = _normalize(
            kernel, p[0], *p[1:], exponential_avg_factor=0.7, epsilon=0.01
        )
        results[f"frozen_{i}"] = _normalize(kernel, p[0], *p[1:], is_training=False)[0]
    first = tf.transpose(p[0], [0, 3, 1, 2])
    results["first"] = _normalize(KERNELS[2], first, *p[1:], data_format="NCHW")
    return results


def _gradient(kernel, training, p):
    x, gamma, beta, mean, variance = p
    if not training:
        # TensorFlow's tape does not know that frozen statistics may move.
        mean, variance = (tf.constant(value, x.dtype) for value in VECTORS[2:])
    with tf.GradientTape() as tape:
        tape.watch((x, gamma, beta))
        y = _normalize(kernel, x, gamma, beta, mean, variance, is_training=training)[0]
        value = tf.reduce_sum(tf.sin(y) * tf.cast(X, y.dtype))
    return tape.gradient(value, (x, gamma, beta))


def _gradients(p):
    return [_gradient(kernel, training, p) for kernel in KERNELS for training in (True, False)]


def _gradient_kernel(p):
    """The gradient's kernel by itself, frozen, with statistics that move."""
    x, gamma, _, mean, variance = p
    return tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=x**2,
        x=x,
        scale=gamma,
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=[],
        is_training=False,
    )[:3]


def _response(x):
    y = tf.nn.lrn(x, 1, 0.5, 0.3, 0.6)
    return {
        "value": y,
        "gradient": tf.raw_ops.LRNGrad(
            input_grads=x**2,
            input_image=x,
            output_image=y,
            depth_radius=1,
            bias=0.5,
            alpha=0.3,
            beta=0.6,
        ),
    }


CASES = {
    "batch": (_batch, (X, *VECTORS), SETTINGS),
    "batch_gradient": (_gradients, (X, *VECTORS), SETTINGS),
    "gradient_kernel": (_gradient_kernel, (X, *VECTORS), dict(SETTINGS, order=1)),
    "response": (_response, _random.normal(size=(2, 1, 2, 4)), SETTINGS),
}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    function, inputs, settings = CASES[case]
    custom_op.check_rule(function, inputs, **settings)


def _plain(p):
    """Batch normalisation in training by means, in float64: what the kernel computes."""
    x, gamma, beta, *_ = p
    centered = x - tf.reduce_mean(x, [0, 1, 2], keepdims=True)
    variance = tf.reduce_mean(centered**2, [0, 1, 2], keepdims=True)
    return centered / tf.sqrt(variance + 1e-4) * gamma + beta


def _fused(p):
    return _normalize(KERNELS[2], *p, is_training=True)[0]


def _derivative(function, v):
    return lambda p: custom_op.jvp(function, p, v)[1]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_training_mode_to_third_order(order):
    """TensorFlow's own third derivative is wrong here."""
    directions = [
        [_random.normal(size=np.shape(leaf)) for leaf in (X, *VECTORS)] for _ in range(order)
    ]

    def derivative(function, dtype):
        def cast(leaves):
            return tuple(tf.cast(leaf, dtype) for leaf in leaves)

        for v in directions:
            function = _derivative(function, cast(v))
        return tf.function(function, autograph=False)(cast((X, *VECTORS)))

    expected = derivative(_plain, tf.float64)
    got = derivative(_fused, tf.float32)
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_low_precision_images_with_a_float32_scale(dtype):
    x = tf.cast(X, dtype)
    rest = [tf.cast(leaf, tf.float32) for leaf in VECTORS]
    y, tangent = custom_op.jvp(lambda x: _normalize(KERNELS[2], x, *rest)[0], x, x)
    assert tangent.dtype == dtype
    # Scaling the input changes nothing: only epsilon is left.
    assert np.max(np.abs(tf.cast(tangent, tf.float32))) < 0.05
    assert y.dtype == dtype
