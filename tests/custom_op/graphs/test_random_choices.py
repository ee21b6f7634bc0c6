"""Choices between random numbers and what is differentiated are refused by name, and no others."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.graphs.random_choices import random_choices

X = tf.constant([0.5, -1.0, 2.0], tf.float64)
RATE = tf.constant(0.3, tf.float64)


def dropped(rate):
    return tf.nn.dropout(X, rate, seed=1)


def in_a_loop(rate):
    def body(i, y):
        return i + 1, tf.nn.experimental.stateless_dropout(y, rate, seed=[1, 2])

    return tf.while_loop(lambda i, y: i < 2, body, (0, X))[1]


CHOOSING = {
    "dropout": dropped,
    "call": tf.function(dropped, autograph=False),
    "branch": lambda rate: tf.cond(rate > 0, lambda: dropped(rate), lambda: X),
    "loop": in_a_loop,
    "threshold": lambda rate: tf.where(tf.random.normal([3], dtype=X.dtype) < rate, X, rate * X),
    "sampled": lambda rate: (
        rate
        * tf.gather(
            X,
            tf.searchsorted(
                tf.cumsum(tf.nn.softmax(rate * X)), 0.99 * tf.random.uniform([3], dtype=X.dtype)
            ),
        )
    ),
    "rounded": lambda rate: X * tf.floor(rate + tf.random.uniform([3], dtype=X.dtype)) + rate,
}


@pytest.mark.parametrize("name", CHOOSING)
def test_refused_by_name(name):
    function = CHOOSING[name]
    with pytest.raises(custom_op.NotDifferentiableError, match="random numbers.*stop_gradient"):
        custom_op.jvp(function, RATE, RATE)
    found = random_choices(function, RATE)
    assert len(found) == 1 and found[0].endswith(("GreaterEqual", "Less", "Floor", "LowerBound"))


HARMLESS = {
    "constant_rate": (lambda x: tf.nn.dropout(x, 0.3, seed=1), X),
    "stopped": (lambda rate: rate * tf.nn.dropout(X, tf.stop_gradient(rate), seed=1), RATE),
    "noise": (lambda x: tf.nn.relu(x + tf.random.stateless_normal([3], [0, 1], dtype=x.dtype)), X),
    "kink_of_noise": (
        lambda x: tf.where((y := x + tf.random.uniform([3], dtype=x.dtype)) > 0, y, 0 * y),
        X,
    ),
    "not_read": (lambda rate: (dropped(rate), rate * X)[1], RATE),
    "no_draws": (lambda x: tf.where(x > 0, x, x * x), X),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_no_obstacle(name):
    function, at = HARMLESS[name]
    assert np.isfinite(custom_op.jvp(function, at, tf.ones_like(at))[1]).all()
    assert name == "not_read" or random_choices(function, at) == []


def test_a_sampled_fisher_matrix_may_be_differentiated():
    labels, v = tf.constant([[1.0], [0.0], [1.0]], tf.float64), tf.constant([[0.7]], tf.float64)

    def product(w):
        operator = custom_op.fisher(
            lambda w: X[:, None] @ w, w, "sigmoid_cross_entropy", labels, kind="sampled"
        )
        return operator @ v

    def slope(w):
        return custom_op.jvp(product, w, v)[1]

    assert np.isfinite(tf.function(slope, autograph=False)(v)).all()
