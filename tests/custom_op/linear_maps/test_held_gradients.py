"""What linearizations leave behind in TensorFlow's registry of gradients: nothing."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

import custom_op
from custom_op.linear_maps import paired


@tf.custom_gradient
def tanh(x):
    y = tf.tanh(x)
    return y, lambda upstream: upstream * (1 - y * y)


called = tf.function(lambda x: tanh(x) * x)


def looped(x):
    def body(i, y):
        return i + 1, tanh(y) * y

    return tf.while_loop(lambda i, y: i < 1, body, (0, x), maximum_iterations=1)[1]


def chosen(x):
    return tf.cond(x[0] > 0, lambda: tanh(x) * x, lambda: x)


NETWORKS = {
    "resize": lambda x: tf.image.resize(x, [4, 4]),
    "pooling": lambda x: tf.nn.max_pool2d(tf.nn.relu(x), 2, 2, "VALID"),
    "custom_gradient": tanh,
    "checkpoint": custom_op.checkpoint(lambda x: tanh(x) * x),
    "loop": looped,
    "choice": lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: tanh(x), lambda: x),
    "nested": lambda x: custom_op.jvp(lambda x: tanh(x) * x, x, tf.ones_like(x))[1],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_batches_end_with_their_linearization(name, monkeypatch):
    monkeypatch.setattr(paired, "COMPILED_FROM", 1)
    registered = ops.gradient_registry._registry
    kernel = tf.random.stateless_normal([3, 3, 3, 2], [0, 1])

    def products():
        images = tf.random.stateless_normal([1, 8, 8, 3], [0, 2])

        def network(kernel):
            return NETWORKS[name](tf.nn.conv2d(images, kernel, 1, "SAME"))

        linear = custom_op.linearize(network, kernel)
        linear.vjp(linear.jvp(kernel))
        return weakref.ref(images)

    products()
    gc.collect()
    before = set(registered)
    images = products()
    gc.collect()
    assert images() is None
    assert sorted(set(registered) - before) == []


def by_checkpoint(x):
    return custom_op.checkpoint(lambda x: tanh(x) * x)(x)


@pytest.mark.parametrize("function", [called, looped, chosen, by_checkpoint])
def test_what_is_still_used_stays(function):
    x, t = tf.constant([0.3, -0.7], tf.float64), tf.constant([1.0, 2.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        first = tanh(x) * x
    slope = tape.gradient(first, x)
    for _ in range(2):
        linear = custom_op.linearize(function, x)
        gc.collect()
        np.testing.assert_allclose(linear.vjp(t), slope * t, rtol=1e-12)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                pushed = custom_op.jvp(function, x, t)[1]
            # The tapes alone know of the linearization.
            gc.collect()
            second = inner.gradient(pushed, x)
            gc.collect()
        y = np.tanh(x)
        # d²/dx² and d³/dx³ of x tanh x.
        bend = 2 * (1 - y**2) * (1 - x * y)
        np.testing.assert_allclose(second, bend * t, rtol=1e-12)
        twist = -4 * y * (1 - y**2) * (1 - x * y) - 2 * (1 - y**2) * (y + x * (1 - y**2))
        np.testing.assert_allclose(outer.gradient(second, x), twist * t, rtol=1e-12)

    traced = tf.function(lambda x: custom_op.jvp(function, x, t)[1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        pushed = traced(x)
    gc.collect()
    np.testing.assert_allclose(tape.gradient(pushed, x), bend * t, rtol=1e-12)
