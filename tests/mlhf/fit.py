"""Keras' own training step, to compare with."""

import keras
import numpy as np
import tensorflow as tf

import mlhf


def as_fit(model, loss, x, y, rate=0.1):
    """Returns what `train_on_batch` with SGD makes of a model: (loss, weights, state).

    The model is left as it was.
    """
    weights, state = mlhf.get_parameters(model), mlhf.get_model_state(model)
    model.compile(keras.optimizers.SGD(rate), loss, run_eagerly=True)
    value = model.train_on_batch(x, y)
    after = {path: value.numpy() for path, value in mlhf.get_parameters(model).items()}
    moved = {path: v.numpy() for path, v in (mlhf.get_model_state(model) or {}).items()}
    mlhf.set_parameters(model, weights)
    mlhf.set_model_state(model, state)
    return float(np.ravel(value)[0]), after, moved  # metrics follow the loss


def as_mlhf(model, loss, x, y, rate=0.1, **settings):
    """Returns the same of `mlhf.FirstOrder`'s step."""
    optimizer = mlhf.FirstOrder(keras.optimizers.SGD(rate))
    objective = mlhf.Objective(model, loss, x, y, **settings)
    parameters = mlhf.get_parameters(model)
    step = optimizer.step(objective, parameters, optimizer.init(model))
    return float(step.metrics["loss"]), step.parameters, step.model_state or {}


def check(model, x, y, keras_loss, loss, rtol=1e-5, atol=1e-6):
    """Checks that a step is that of `fit`: the loss, new weights, new state, and that it moves."""
    value, weights, state = as_fit(model, keras_loss, x, y)
    before = mlhf.get_parameters(model)
    own_value, own_weights, own_state = as_mlhf(model, loss, x, y)
    np.testing.assert_allclose(own_value, value, rtol=rtol, err_msg="loss")
    for path, expected in weights.items():
        np.testing.assert_allclose(own_weights[path], expected, rtol, atol, err_msg=path)
    assert any(np.any(expected != before[path]) for path, expected in weights.items())
    assert set(own_state) == set(state)
    for path, expected in state.items():
        np.testing.assert_allclose(own_state[path], expected, rtol, atol, err_msg=path)
    return tf.constant(value)
