"""Rules of maximum pooling, by mask and by TensorFlow's kernels, ties included."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(4)
IMAGES = _random.normal(size=(2, 4, 6, 2))


def _pools(x):
    return {
        "tiles": tf.nn.max_pool2d(x, 2, 2, "SAME"),
        "tiles_valid_rest": tf.nn.max_pool2d(x, [3, 2], [3, 2], "VALID"),
        "hanging_over": tf.nn.max_pool2d(x, 4, 4, "SAME"),
        "overlapping": tf.nn.max_pool2d(x, 3, 2, "SAME"),
        "one_window": tf.nn.max_pool2d(x, [4, 6], [4, 6], "VALID"),
    }


def _gradients(x):
    pooled = tf.nn.max_pool2d(x, 2, 2, "SAME")
    settings = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "SAME"}
    return {
        "gradient": tf.raw_ops.MaxPoolGrad(
            orig_input=x, orig_output=pooled, grad=pooled**2, **settings
        ),
        "second": tf.raw_ops.MaxPoolGradGrad(
            orig_input=x, orig_output=pooled, grad=x**2, **settings
        ),
    }


CASES = {"pools": (_pools, IMAGES), "gradients": (_gradients, IMAGES)}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    custom_op.check_rule(*CASES[case])


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2)])
def test_ties_as_tensorflow(size, stride, jit):
    x = tf.constant(_random.integers(0, 2, size=(2, 8, 8, 3)), tf.float32)
    u = tf.constant(_random.normal(size=(2, 4, 4, 3)), tf.float32)

    @tf.function(autograph=False, jit_compile=jit)
    def run(x):
        def pool(x):
            return tf.nn.max_pool2d(x, size, stride, "SAME")

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = pool(x)
        linear = custom_op.linearize(pool, x)
        pulled = linear.vjp(u)
        return tape.gradient(y, x, u), pulled, tf.reduce_sum(u * linear.jvp(pulled))

    expected, pulled, product = run(x)
    np.testing.assert_allclose(pulled, expected, atol=1e-6)
    np.testing.assert_allclose(product, tf.reduce_sum(pulled**2), rtol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_dtypes(dtype):
    x = tf.cast(IMAGES, dtype)
    y, tangent = custom_op.jvp(lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"), x, x)
    assert tangent.dtype == dtype
    # Homogeneous of degree one: J x = y.
    np.testing.assert_allclose(tf.cast(tangent, tf.float32), tf.cast(y, tf.float32), rtol=1e-2)
