"""Second derivatives, by every way of nesting R-forward with itself and with tapes."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx

import custom_op
from custom_op import registry

_random = np.random.default_rng(8)
A = _random.normal(size=(5, 3))
W, V = _random.normal(size=3), _random.normal(size=3)

MODES = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "xla": lambda function: tf.function(function, autograph=False, jit_compile=True),
}


def _loss(w):
    return 0.5 * tf.reduce_sum(tf.tanh(tf.linalg.matvec(A, w)) ** 2)


def _hessian():
    y = np.tanh(A @ W)
    slope = 1 - y**2
    return A.T @ np.diag(slope**2 - 2 * y**2 * slope) @ A


def _gradient_by_tape(w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = _loss(w)
    return tape.gradient(value, w)


def _gradient_by_linearization(w):
    return custom_op.linearize(_loss, w).vjp(tf.ones([], w.dtype))


def _tape_over_jvp(w, v):
    with tf.GradientTape() as tape:
        tape.watch(w)
        slope = custom_op.jvp(_loss, w, v)[1]
    return tape.gradient(slope, w)


def _tape_over_vjp(w, v):
    with tf.GradientTape() as tape:
        tape.watch(w)
        slope = tf.reduce_sum(_gradient_by_linearization(w) * v)
    return tape.gradient(slope, w)


def _vjp_over_jvp(w, v):
    slope = custom_op.linearize(lambda w: custom_op.jvp(_loss, w, v)[1], w)
    return slope.vjp(tf.ones([], w.dtype))


HESSIAN_PRODUCTS = {
    "jvp_over_tape": lambda w, v: custom_op.jvp(_gradient_by_tape, w, v)[1],
    "jvp_over_vjp": lambda w, v: custom_op.jvp(_gradient_by_linearization, w, v)[1],
    "tape_over_jvp": _tape_over_jvp,
    "tape_over_vjp": _tape_over_vjp,
    "vjp_over_jvp": _vjp_over_jvp,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", HESSIAN_PRODUCTS)
def test_hessian_product(way, mode):
    product = MODES[mode](HESSIAN_PRODUCTS[way])(tf.constant(W), tf.constant(V))
    np.testing.assert_allclose(product, _hessian() @ V, rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_jvp_of_jvp_in_two_directions(mode):
    def second(w, v, u):
        return custom_op.jvp(lambda w: custom_op.jvp(_loss, w, v)[1], w, u)[1]

    run = MODES[mode](second)
    for u in (V, W):
        curvature = run(tf.constant(W), tf.constant(V), tf.constant(u))
        np.testing.assert_allclose(curvature, V @ _hessian() @ u, rtol=1e-12)


def test_hessian_product_of_a_network_with_pooling():
    images = tf.constant(_random.normal(size=(2, 4, 4, 2)))

    def gradient(kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            h = tf.nn.max_pool2d(tf.nn.conv2d(images, kernel, 1, "SAME") ** 2, 2, 2, "SAME")
            value = tf.reduce_sum(tf.nn.max_pool2d(tf.nn.softplus(h), 3, 1, "SAME"))
        return tape.gradient(value, kernel)

    kernel, v = (tf.constant(_random.normal(size=(3, 3, 2, 2))) for _ in range(2))
    product = custom_op.jvp(gradient, kernel, v)[1]
    step = 1e-6
    difference = (gradient(kernel + step * v) - gradient(kernel - step * v)) / (2 * step)
    np.testing.assert_allclose(product, difference, rtol=1e-6, atol=1e-6)


def test_a_linearization_is_freed_with_the_trace():
    kept = []

    @tf.function(autograph=False)
    def run(x):
        linear = custom_op.linearize(tf.tanh, x)
        kept.append(weakref.ref(linear))

        def body(i, v):
            kept.append(weakref.ref(tf.compat.v1.get_default_graph()))
            return i + 1, linear.vjp(linear.jvp(v))

        return tf.while_loop(lambda i, _: i < 2, body, (0, linear.vjp(x)))[1]

    run(tf.constant([1.0]))
    assert all(reference() is not None for reference in kept[1:])
    del run
    gc.collect()
    assert [reference() for reference in kept] == [None] * len(kept)


def test_an_eager_linearization_is_freed():
    linear = custom_op.linearize(tf.tanh, tf.constant([1.0]))
    linear.vjp(linear.jvp(tf.constant([1.0])))
    reference = weakref.ref(linear)
    del linear
    gc.collect()
    assert reference() is None


def test_autograph_does_not_convert_rules(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    seen = []

    @custom_op.register_r_forward("Softsign", override=True)
    def softsign(op):
        def tangent_map(tangent):
            seen.append(ag_ctx.control_status_ctx().status)
            return tangent

        return tangent_map

    @tf.function
    def run(x):
        linear = custom_op.linearize(tf.nn.softsign, x)
        return linear.vjp(linear.jvp(x))

    run(tf.constant(1.0))
    assert seen == [ag_ctx.Status.DISABLED] * 2
