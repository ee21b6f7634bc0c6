"""Rules of average pooling, and of the pooling kernels beside the plain maximum."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.rules import kernels

_random = np.random.default_rng(3)
IMAGES = _random.normal(size=(1, 4, 4, 2))
# TensorFlow has these in float32 only. A permutation: no two values are near each other.
VOLUME = _random.permutation(48).reshape(2, 3, 4, 2, 1) / 10
SETTINGS = {"dtype": tf.float32, "tolerance": 1e-2}
KERNEL = {"ksize": [1, 2, 2, 2, 1], "strides": [1, 2, 2, 2, 1], "padding": "SAME"}


def _average(x):
    return {
        "average": tf.nn.avg_pool2d(x, 2, 2, "SAME"),
        "overlapping": tf.nn.avg_pool2d(x, 3, 2, "SAME"),
        "gradient": tf.raw_ops.AvgPoolGrad(
            orig_input_shape=[1, 8, 8, 2],
            grad=x**2,
            ksize=[1, 2, 2, 1],
            strides=[1, 2, 2, 1],
            padding="SAME",
        ),
    }


def _channels_first(x):
    return tf.nn.avg_pool2d(tf.transpose(x, [0, 3, 1, 2]), 2, 1, "VALID", data_format="NCHW")


def _volumes(x):
    pooled = tf.nn.max_pool3d(x, 2, 2, "SAME")
    return {
        "average": tf.nn.avg_pool3d(x, 2, 2, "SAME"),
        "average_gradient": tf.raw_ops.AvgPool3DGrad(
            orig_input_shape=[2, 5, 8, 4, 1], grad=x**2, **KERNEL
        ),
        "max": pooled,
        "max_gradient": tf.raw_ops.MaxPool3DGrad(
            orig_input=x, orig_output=pooled, grad=pooled**2, **KERNEL
        ),
        "max_second": tf.raw_ops.MaxPool3DGradGrad(
            orig_input=x, orig_output=pooled, grad=x**2, **KERNEL
        ),
    }


def _places(x):
    return {
        "within": tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")[0],
        "over_all": tf.nn.max_pool_with_argmax(x, 3, 2, "VALID", include_batch_in_index=True)[0],
    }


CASES = {
    "average": (_average, IMAGES, {}),
    "first": (_channels_first, IMAGES, SETTINGS),
    "volumes": (_volumes, VOLUME, SETTINGS),
    "places": (_places, _random.normal(size=(2, 5, 4, 2)), {}),
}


@pytest.mark.onednn
@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    if case == "first" and not kernels.has_onednn():
        pytest.skip("TensorFlow pools with the channels first on a CPU by oneDNN and XLA only")
    function, inputs, settings = CASES[case]
    custom_op.check_rule(function, inputs, **settings)


@pytest.mark.onednn
@pytest.mark.parametrize("pool", [tf.nn.avg_pool2d, tf.nn.max_pool2d])
def test_channels_first_by_xla(pool):
    """XLA has the kernels on every machine, and in float64."""
    x = tf.constant(_random.permutation(64).reshape(2, 2, 4, 4) / 10)

    def products(function, x):
        linear = custom_op.linearize(function, x)
        pushed = linear.jvp(x * x)
        return pushed, linear.vjp(pushed)

    @tf.function(autograph=False, jit_compile=True)
    def run(x):
        first = products(lambda x: pool(x, 3, 1, "SAME", data_format="NCHW"), x)
        last = products(lambda x: pool(x, 3, 1, "SAME"), tf.transpose(x, [0, 2, 3, 1]))
        return first, [tf.transpose(each, [0, 3, 1, 2]) for each in last]

    for got, expected in zip(*run(x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)
