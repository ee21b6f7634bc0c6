"""Rules of matrix products and convolutions: linear in each of two inputs."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(1)


def _normal(*shape):
    return _random.normal(size=shape)


def _matrices(p):
    x, y = p
    stacked = tf.stack([x, 2 * x])
    return {
        "matmul": tf.matmul(x, y),
        "transposed": tf.matmul(x, x, transpose_b=True),
        "left_constant": tf.matmul(tf.ones([2, 3], x.dtype), y),
        "batch": tf.matmul(stacked, stacked, transpose_a=True),
        "batch_broadcast": tf.matmul(stacked, y),
        "batch_1": tf.raw_ops.BatchMatMul(x=stacked, y=stacked, adj_y=True),
        "batch_3": tf.raw_ops.BatchMatMulV3(x=stacked, y=y, Tout=tf.float64),
        "einsum": tf.einsum("bi,ij->bj", x, y),
        "einsum_same": tf.einsum("bi,ci->bc", x, x),
        "einsum_three": tf.einsum("bi,ij,bj->b", x, y, tf.sin(tf.matmul(x, y))),
        "einsum_one": tf.einsum("bi->ib", x),
    }


def _convolutions(p):
    images, kernel = p
    return {
        "same": tf.nn.conv2d(images, kernel, 1, "SAME"),
        "strided": tf.nn.conv2d(images, kernel, 2, "VALID"),
        "explicit": tf.nn.conv2d(images, kernel, 1, [[0, 0], [1, 0], [0, 2], [0, 0]]),
        "constant_images": tf.nn.conv2d(tf.ones([1, 4, 4, 2], kernel.dtype), kernel, 1, "SAME"),
        "transpose": tf.nn.conv2d_transpose(
            tf.nn.conv2d(images, kernel, 1, "SAME"), kernel, [1, 5, 4, 2], 1, "SAME"
        ),
        "filter": tf.raw_ops.Conv2DBackpropFilter(
            input=images,
            filter_sizes=[3, 3, 2, 2],
            out_backprop=images,
            strides=[1, 1, 1, 1],
            padding="SAME",
        ),
        "depthwise": tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], "SAME"),
        "depthwise_input": tf.nn.depthwise_conv2d_backprop_input(
            [1, 5, 4, 2], kernel, tf.concat([images, images], 3), [1, 1, 1, 1], "SAME"
        ),
        "depthwise_filter": tf.nn.depthwise_conv2d_backprop_filter(
            images, [3, 3, 2, 2], tf.concat([images, images], 3), [1, 1, 1, 1], "SAME"
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


CASES = {
    "matrices": (_matrices, (_normal(2, 3), _normal(3, 3))),
    "convolutions": (_convolutions, (_normal(1, 5, 4, 2), _normal(3, 3, 2, 2))),
    "volumes": (_volumes, (_normal(1, 3, 2, 2, 1), _normal(2, 2, 2, 1, 1))),
}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    custom_op.check_rule(*CASES[case])
