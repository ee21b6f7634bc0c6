"""Finds out which kernels TensorFlow has on this machine's CPU."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf


@functools.cache
def has_onednn() -> bool:
    """Returns whether TensorFlow uses oneDNN on the CPU.

    It does by default on processors with AVX-512 or AMX instructions for neural networks, elsewhere
    if the environment variable `TF_ENABLE_ONEDNN_OPTS` is 1. Outside XLA, only oneDNN has CPU
    kernels, in float32 and bfloat16, for convolutions and poolings with the channels first and for
    gradients of dilated and of grouped convolutions. One trial convolution decides.

    Returns:
      Whether the trial succeeds.
    """

    def convolve() -> tf.Tensor:
        image, kernel = tf.ones([1, 1, 2, 2]), tf.ones([1, 1, 1, 1])
        return tf.nn.conv2d(image, kernel, 1, "VALID", data_format="NCHW")

    with tf.init_scope(), tf.device("/CPU:0"):
        try:
            convolve()
        except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
            return False
    return True


@functools.cache
def sums_bfloat16_in_float32() -> bool:
    """Returns whether products of bfloat16 operands are summed in float32 on this machine.

    Kernels for processors without bfloat16 instructions round partial sums to bfloat16: products
    are then off by percents, and no faster. Products on a GPU and by XLA sum in float32. Two trial
    products decide.

    Returns:
      Whether both are accurate.
    """
    if tf.config.list_logical_devices("GPU"):
        return True

    @tf.function(autograph=False)
    def products(left: tf.Tensor, right: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        sizes = {"filter_sizes": [1, 1, 8, 8], "strides": [1, 1, 1, 1], "padding": "VALID"}
        in_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=left[:, None, None], out_backprop=right[:, None, None], **sizes
        )
        return tf.reshape(in_kernel, [8, 8]), tf.einsum("bi,bj->ij", left, right)

    with tf.init_scope():
        random = np.random.default_rng(0)
        operands = [tf.constant(random.normal(size=(512, 8)), tf.bfloat16) for _ in range(2)]
        exact = [value.numpy() for value in products(*(tf.cast(v, tf.float32) for v in operands))]
        rounded = [tf.cast(value, tf.float32).numpy() for value in products(*operands)]
    # Rounding only the results makes an error of 0.2%.
    return all(
        np.linalg.norm(a - b) < 5e-3 * np.linalg.norm(a)
        for a, b in zip(exact, rounded, strict=True)
    )
