"""Keras models as problems."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf import hypergrad as hg
from mlhf.hypergrad.binding import bind
from tests.mlhf.hypergrad.small_problem import make


def test_a_keras_model_with_dropout():

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=[12, 4]).astype("float32"), rng.integers(0, 3, 12)
    train_loss, valid_loss = hg.keras_losses(
        model,
        "softmax_cross_entropy",
        valid_data=(x, y),
        regularizer=lambda w, h: h["l2"] * tf.add_n([tf.reduce_sum(v**2) for v in w.values()]),
    )
    problem = make(
        train_loss, valid_loss, batches=hg.Minibatches((x, y), 4, 4), dynamics=hg.Momentum(0.2)
    )
    hyper = {"l2": 0.01, "learning_rate": 0.2}
    before = mlhf.get_model_state(model)
    reverse = hg.reverse(problem, model, hyper)
    forward = hg.forward(problem, mlhf.get_parameters(model), hyper)
    other = hg.reverse(problem, model, hyper, seed=3)
    for name in hyper:
        np.testing.assert_allclose(
            reverse.hypergradient[name], forward.hypergradient[name], rtol=1e-4
        )
    assert other.valid_loss != reverse.valid_loss
    for path, value in mlhf.get_model_state(model).items():
        np.testing.assert_array_equal(value, before[path])
    mlhf.set_parameters(model, reverse.weights)

    normed = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(5), keras.layers.BatchNormalization()]
    )
    train_loss, valid_loss = hg.keras_losses(normed, "softmax_cross_entropy", valid_data=(x, y))
    bad = make(train_loss, valid_loss, batches=hg.Minibatches((x, y), 4, 4))
    with pytest.raises(ValueError, match="training=False"):
        hg.reverse(bad, normed, {"learning_rate": 0.1})


def test_a_keras_model_with_losses_of_its_own_is_refused():

    x, y = np.ones([4, 3], "float32"), np.zeros(4, np.int64)
    for name in ("kernel_regularizer", "activity_regularizer"):
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2, **{name: "l2"})])
        losses = hg.keras_losses(model, "softmax_cross_entropy", valid_data=(x, y))
        problem = make(*losses, batches=hg.Minibatches((x, y), 4, 4))
        with pytest.raises(ValueError, match=r"losses of its own.*keras_losses\(regularizer="):
            bind(problem, model, {"learning_rate": 0.1})
