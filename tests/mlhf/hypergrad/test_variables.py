"""Losses that read a variable instead of the weights or hyperparameters that they are given."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf import hypergrad as hg

X = tf.constant(np.random.default_rng(0).normal(size=[6, 3]), tf.float32)
Y = tf.ones([6, 1])


def make(train, outer, **options):
    return hg.Problem(train, outer, dynamics=hg.GradientDescent(0.1), steps=2, **options)


def mse(outputs):
    return tf.reduce_mean((outputs - Y) ** 2)


def train(w, h, step):
    squares = tf.add_n([tf.reduce_sum(leaf**2) for leaf in w.values()])
    return mse(X @ w["kernel"] + w["bias"]) + h["l2"] * squares


def outer(w, h):
    return mse(X @ w["kernel"] + w["bias"])


@pytest.fixture
def variables():
    return {
        "kernel": tf.Variable([[0.1], [0.2], [0.3]], name="first_kernel"),
        "bias": tf.Variable([0.5], name="first_bias"),
    }


HYPER = {"l2": 0.1}


def test_a_loss_that_reads_a_variable_is_refused(variables):
    kernel, bias = variables.values()
    copies = {name: tf.constant(variable.numpy()) for name, variable in variables.items()}
    whole = lambda w, h: mse(X @ kernel + bias)  # noqa: E731
    part = lambda w, h: mse(X @ w["kernel"] + bias)  # noqa: E731
    called = tf.function(lambda w: mse(X @ w["kernel"] + bias))
    beside = lambda w, h: outer(w, h) + 0.1 * tf.reduce_sum(kernel**2)  # noqa: E731
    for given in (variables, copies):
        for loss in (whole, part, lambda w, h: called(w), beside):
            with pytest.raises(ValueError, match="valid_loss reads the variable 'first_"):
                hg.reverse(make(train, loss), given, HYPER)
            both = {"valid_loss": outer, "other": loss}
            with pytest.raises(ValueError, match="other reads the variable 'first_"):
                hg.reverse(make(train, both), given, HYPER)
        trained = lambda w, h, step: train({"kernel": w["kernel"], "bias": bias}, h, step)  # noqa: E731
        with pytest.raises(ValueError, match="train_loss reads the variable 'first_bias'"):
            hg.reverse(make(trained, outer), given, HYPER)
    # Known by its variable, also at a later call that traces nothing.
    scaled = tf.Variable(0.1, name="strength", trainable=False)
    hidden = make(lambda w, h, step: train(w, h, step) + scaled * w["bias"][0], outer)
    assert hg.reverse(hidden, copies, HYPER).hypergradient["l2"] != 0
    with pytest.raises(ValueError, match="train_loss reads the variable 'strength'.*'l2'"):
        hg.reverse(hidden, copies, {"l2": scaled})


def test_what_is_no_weight_may_be_read(variables):
    bias = variables["bias"]
    frozen = tf.Variable(tf.ones([3, 1]), trainable=False)
    other = tf.Variable([[0.7], [0.1], [0.2]])  # of a weight's shape, trainable, and another
    loss = lambda w, h: outer(w, h) + mse(X @ (w["kernel"] * frozen + other))  # noqa: E731
    assert hg.reverse(make(train, loss), variables, HYPER).hypergradient["l2"] != 0
    stopped = lambda w, h: mse(X @ w["kernel"] + tf.stop_gradient(bias))  # noqa: E731
    assert hg.reverse(make(train, stopped), variables, HYPER).hypergradient["l2"] != 0


def test_an_outer_loss_has_to_depend_on_the_weights():
    weights = {"kernel": tf.ones([3, 1]), "bias": tf.ones([1])}
    with pytest.raises(ValueError, match="'valid_loss' does not depend on the weights"):
        hg.reverse(make(train, lambda w, h: tf.constant(1.0)), weights, HYPER)
    # One of hyperparameters alone is a penalty of theirs.
    penalty = {"valid_loss": outer, "penalty": lambda w, h: h["l2"] ** 2}
    alone = hg.reverse(make(train, outer), weights, HYPER).hypergradient["l2"]
    both = hg.reverse(make(train, penalty), weights, HYPER).hypergradient["l2"]
    np.testing.assert_allclose(both, alone + 0.2, rtol=1e-5)


def test_a_keras_model_that_is_called_itself():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1, bias_initializer="ones")])
    parameters = mlhf.get_parameters(model)
    kernel, bias = parameters

    def train_loss(w, h, step):
        return mse(X @ w[kernel] + w[bias]) + h["l2"] * tf.reduce_sum(w[kernel] ** 2)

    itself = make(train_loss, lambda w, h: mse(model(X)))
    for weights in (model, parameters):
        with pytest.raises(ValueError, match="valid_loss reads the variable"):
            hg.reverse(itself, weights, HYPER)

    def supply(step):
        return (X @ model.variables[0].value).numpy()

    fed = lambda w, h, step, batch: train_loss(w, h, step) + tf.reduce_mean(batch) * w[bias][0]  # noqa: E731
    with pytest.raises(ValueError, match="batches reads the variable"):
        hg.reverse(make(fed, lambda w, h: mse(X @ w[kernel]), batches=supply), model, HYPER)
