"""Rules of convolutions and their transposes, with and without TensorFlow's kernels."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.rules import kernels

_random = np.random.default_rng(1)


def _normal(*shape):
    return _random.normal(size=shape)


def _planes(p):
    images, kernel = p
    return {
        "same": tf.nn.conv2d(images, kernel, 1, "SAME"),
        "strided": tf.nn.conv2d(images, kernel, 2, "VALID"),
        "explicit": tf.nn.conv2d(images, kernel, 1, [[0, 0], [1, 0], [0, 2], [0, 0]]),
        "line": tf.nn.conv1d(images[:, :, 0], kernel[:, 0], 2, "SAME"),
        "constant_images": tf.nn.conv2d(tf.ones([1, 4, 4, 2], kernel.dtype), kernel, 1, "SAME"),
        "transpose": tf.nn.conv2d_transpose(
            tf.nn.conv2d(images, kernel, 1, "SAME"), kernel, [1, 5, 4, 2], 1, "SAME"
        ),
        "transpose_strided": tf.nn.conv2d_transpose(images, kernel, [1, 10, 8, 2], 2, "SAME"),
        "filter": tf.raw_ops.Conv2DBackpropFilter(
            input=images,
            filter_sizes=[3, 3, 2, 2],
            out_backprop=images,
            strides=[1, 1, 1, 1],
            padding="SAME",
        ),
    }


def _depthwise(p):
    images, kernel = p
    double = tf.concat([images, images], 3)
    return {
        "forward": tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], "SAME"),
        "strided": tf.nn.depthwise_conv2d(images, kernel, [1, 2, 2, 1], "VALID"),
        "separable": tf.nn.separable_conv2d(
            images, kernel, tf.reshape(kernel[:2, :2, :, :], [1, 1, 4, 4]), [1, 1, 1, 1], "SAME"
        ),
        "input": tf.nn.depthwise_conv2d_backprop_input(
            [1, 5, 4, 2], kernel, double, [1, 1, 1, 1], "SAME"
        ),
        "filter": tf.nn.depthwise_conv2d_backprop_filter(
            images, [3, 3, 2, 2], double, [1, 1, 1, 1], "SAME"
        ),
    }


def _volumes(p):
    volume, kernel = p
    settings = {"strides": [1, 1, 1, 1, 1], "padding": "SAME"}
    return {
        "conv3d": tf.nn.conv3d(volume, kernel, **settings),
        "transpose": tf.raw_ops.Conv3DBackpropInputV2(
            input_sizes=[1, 3, 2, 2, 1], filter=kernel, out_backprop=volume, **settings
        ),
        "filter": tf.raw_ops.Conv3DBackpropFilterV2(
            input=volume, filter_sizes=[2, 2, 2, 1, 1], out_backprop=volume, **settings
        ),
    }


def _without_kernels(p):
    """What TensorFlow can run on CPU in float64, and cannot differentiate."""
    images, kernel = p
    return {
        "dilated": tf.raw_ops.Conv2D(
            input=images,
            filter=kernel,
            strides=[1, 1, 1, 1],
            padding="EXPLICIT",
            explicit_paddings=[0, 0, 2, 1, 1, 0, 0, 0],
            dilations=[1, 2, 1, 1],
        ),
        "grouped": tf.nn.conv2d(images, kernel[:, :, :1], 2, "SAME"),
    }


def _channels_first(p):
    images, kernel = p
    first = tf.transpose(images, [0, 3, 1, 2])
    strides = [1, 1, 1, 1]
    return {
        "same": tf.nn.conv2d(first, kernel, 1, "SAME", data_format="NCHW"),
        "grouped": tf.nn.conv2d(first, kernel[:, :, :1], 1, "SAME", data_format="NCHW"),
        "transpose": tf.nn.conv2d_transpose(
            first, kernel, [1, 2, 10, 8], 2, "SAME", data_format="NCHW"
        ),
        "depthwise": tf.nn.depthwise_conv2d(first, kernel, strides, "SAME", data_format="NCHW"),
        "dilated": tf.nn.conv2d(images, kernel, 1, "SAME", dilations=2),
        "grouped_last": tf.nn.conv2d(images, kernel[:, :, :1], 1, "VALID"),
    }


CASES = {
    "planes": (_planes, (_normal(1, 5, 4, 2), _normal(3, 3, 2, 2))),
    "depthwise": (_depthwise, (_normal(1, 5, 4, 2), _normal(3, 3, 2, 2))),
    "volumes": (_volumes, (_normal(1, 3, 2, 2, 1), _normal(2, 2, 2, 1, 1))),
    "without_kernels": (_without_kernels, (_normal(1, 5, 4, 2), _normal(2, 2, 2, 2))),
}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    custom_op.check_rule(*CASES[case], order=1 if case == "without_kernels" else 2)


@pytest.mark.slow
def test_taps_to_second_order():
    custom_op.check_rule(*CASES["without_kernels"])


@pytest.mark.onednn
def test_channels_first():
    if not kernels.has_onednn():
        pytest.skip("TensorFlow convolves with the channels first on a CPU by oneDNN and XLA only")
    # On CPU, oneDNN has these kernels in float32.
    custom_op.check_rule(
        _channels_first,
        (_normal(1, 5, 4, 2), _normal(3, 3, 2, 2)),
        dtype=tf.float32,
        tolerance=2e-2,
    )


TAPS = {
    "dilated": ((1, 6, 5, 2), (3, 2, 2, 3), "NHWC", [1, 1], [2, 1], "SAME"),
    "grouped": ((2, 5, 4, 4), (3, 3, 2, 6), "NHWC", [2, 1], [1, 1], "SAME"),
    "first": ((1, 2, 5, 4), (2, 3, 2, 3), "NCHW", [2, 2], [1, 1], "VALID"),
    "first_grouped": ((1, 4, 5, 4), (2, 2, 2, 4), "NCHW", [1, 1], [1, 2], "SAME"),
    "volume": ((1, 4, 3, 3, 2), (2, 2, 1, 2, 2), "NDHWC", [1, 1, 1], [2, 1, 1], "SAME"),
    "volume_grouped": ((1, 3, 3, 2, 4), (2, 2, 1, 2, 4), "NDHWC", [1, 2, 1], [1, 1, 1], "SAME"),
    "volume_first": ((1, 2, 3, 3, 2), (2, 2, 1, 2, 2), "NCDHW", [1, 1, 2], [1, 1, 1], "VALID"),
}


QUICK = ("dilated", "volume_grouped")


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in TAPS]
)
def test_taps_are_the_convolution(case):
    """Where the tangent is a sum of taps, it is what XLA's kernel of the operation computes."""
    x_shape, w_shape, data_format, strides, dilations, padding = TAPS[case]
    x, w = tf.constant(_normal(*x_shape)), tf.constant(_normal(*w_shape))

    def convolve(p):
        return tf.nn.convolution(
            p[0], p[1], strides, padding, dilations=dilations, data_format=data_format
        )

    @tf.function(autograph=False, jit_compile=True)
    def compiled(x, w):
        with tf.GradientTape() as tape:
            tape.watch((x, w))
            y = convolve((x, w))
            u = tf.sin(y)
        return y, tape.gradient(y, (x, w), tf.stop_gradient(u)), u

    y, gradients, u = compiled(x, w)

    @tf.function(autograph=False)
    def plain(x, w, u):
        # Its forward pass may have no kernel here, and is not run: nothing needs its value.
        linear = custom_op.linearize(convolve, (x, w))
        return linear.jvp((x, w)), linear.vjp(u)

    pushed, pulled = plain(x, w, u)
    # Bilinear: the derivative along (x, w) is twice the value.
    np.testing.assert_allclose(pushed, 2 * y, rtol=1e-12, atol=1e-12)
    for got, expected in zip(pulled, gradients, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op_type", ["Conv2D", "DepthwiseConv2dNative"])
def test_transposes_by_taps(op_type):
    """A transposed convolution and the gradient in the kernel, with the channels first."""
    x, w, u = (tf.constant(_normal(*shape)) for shape in ((1, 2, 5, 4), (3, 3, 2, 2), (1, 2, 3, 2)))
    if op_type != "Conv2D":
        u = tf.concat([u, u * u], 1)
    settings = {"strides": [1, 1, 2, 2], "padding": "SAME"}
    to_input = getattr(tf.raw_ops, f"{op_type}BackpropInput")
    to_filter = getattr(tf.raw_ops, f"{op_type}BackpropFilter")

    def transposes(data_format):
        first = data_format == "NCHW"
        order = [0, 1, 2, 3] if first else [0, 2, 3, 1]
        options = dict(settings, data_format=data_format)
        if not first:
            options["strides"] = [1, 2, 2, 1]

        def run(p):
            x, w, u = tf.transpose(p[0], order), p[1], tf.transpose(p[2], order)
            sizes = {"input_sizes": x.shape, "filter_sizes": w.shape}
            dx = to_input(input_sizes=sizes["input_sizes"], filter=w, out_backprop=u, **options)
            dw = to_filter(input=x, filter_sizes=sizes["filter_sizes"], out_backprop=u, **options)
            return dx if first else tf.transpose(dx, [0, 3, 1, 2]), dw

        return run

    run = tf.function(
        lambda p, mode: custom_op.linearize(transposes(mode), p).jvp(p), autograph=False
    )
    for got, expected in zip(run((x, w, u), "NCHW"), run((x, w, u), "NHWC"), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.onednn
def test_channels_first_by_xla():
    """XLA has the kernels on every machine, and in float64."""
    x, w = tf.constant(_normal(1, 4, 3, 2)), tf.constant(_normal(2, 2, 2, 3))

    def products(convolve, x, w):
        linear = custom_op.linearize(lambda p: convolve(*p), (x, w))
        pushed = linear.jvp((x, w))
        return pushed, linear.vjp(pushed)

    @tf.function(autograph=False, jit_compile=True)
    def run(x, w):
        last = products(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), x, w)
        pushed, (dx, dw) = products(
            lambda x, w: tf.nn.conv2d(x, w, 1, "SAME", data_format="NCHW"),
            tf.transpose(x, [0, 3, 1, 2]),
            w,
        )
        pushed, dx = (tf.transpose(each, [0, 2, 3, 1]) for each in (pushed, dx))
        return last, (pushed, (dx, dw))

    for got, expected in zip(*map(tf.nest.flatten, run(x, w)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_compiled_without_taps():
    """XLA has the kernels that are missing outside of it."""
    x, w = tf.constant(_normal(1, 5, 4, 4)), tf.constant(_normal(3, 2, 2, 4))

    def products(x, w):
        linear = custom_op.linearize(lambda p: tf.nn.conv2d(*p, 1, "SAME"), (x, w))
        pushed = linear.jvp((x, w))
        return pushed, linear.vjp(pushed)

    plain, compiled = (
        tf.function(products, autograph=False, jit_compile=jit) for jit in (False, True)
    )
    for got, expected in zip(
        tf.nest.flatten(compiled(x, w)), tf.nest.flatten(plain(x, w)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    kinds = [
        [op.type for op in run.get_concrete_function(x, w).graph.get_operations()]
        for run in (plain, compiled)
    ]
    assert len(kinds[1]) < len(kinds[0])
