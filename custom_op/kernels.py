"""Which kernels TensorFlow has on this machine's CPU."""

from __future__ import annotations

import functools

import tensorflow as tf


@functools.cache
def has_onednn() -> bool:
    """Returns whether TensorFlow computes on the CPU by oneDNN.

    It does by default on processors with AVX-512 or AMX instructions for neural networks, elsewhere
    where the environment variable `TF_ENABLE_ONEDNN_OPTS` is 1. Only oneDNN has kernels for
    convolutions and poolings with the channels first there, and for gradients of dilated and of
    grouped convolutions; outside XLA, and in float32 and bfloat16. A convolution tells, once.
    """

    def convolve():
        image, kernel = tf.ones([1, 1, 2, 2]), tf.ones([1, 1, 1, 1])
        return tf.nn.conv2d(image, kernel, 1, "VALID", data_format="NCHW")

    with tf.init_scope(), tf.device("/CPU:0"):
        try:
            convolve()
        except (tf.errors.UnimplementedError, tf.errors.InvalidArgumentError):
            return False
    return True
