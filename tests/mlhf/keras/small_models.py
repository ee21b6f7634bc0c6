"""Small Keras models, data, and a loop of one's own to compare `fit` with."""

import keras
import numpy as np
import tensorflow as tf

import mlhf

L = keras.layers
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(28, 6)).astype("float32")
Y = RANDOM.integers(0, 3, 28).astype("int32")
ONE_HOT = np.eye(3, dtype="float32")[Y]
SIZE = 8  # the last batch of an epoch has 4 examples
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(dropout=0.3, name="network", **settings):
    """A model with a normalisation, moving statistics and dropout."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input([6]),
            L.Dense(5, name="hidden", **settings),
            L.BatchNormalization(name="norm"),
            L.ReLU(name="relu"),
            L.Dropout(dropout, seed=3, name="dropout"),
            L.Dense(3, name="logits", **settings),
        ],
        name=name,
    )


def sgd(rate=0.1):
    return mlhf.FirstOrder(keras.optimizers.SGD(rate))


def fit(model, x=X, y=Y, **arguments):
    return model.fit(
        x, y, **{"batch_size": SIZE, "shuffle": False, "verbose": 0, **arguments}
    ).history


def loop(model, optimizer, epochs=1):
    """README's loop: returns what `values` returns of a model that `fit` trained."""
    parameters, model_state = mlhf.get_parameters(model), mlhf.get_model_state(model)
    state = optimizer.init(model)
    for start in list(range(0, len(X), SIZE)) * epochs:
        x, y = X[start : start + SIZE], Y[start : start + SIZE]
        objective = mlhf.Objective(model, "softmax_cross_entropy", x, y, model_state)
        parameters, state, model_state, _ = optimizer.step(objective, parameters, state)
    evaluated = optimizer.evaluation_parameters(parameters, state)
    return [np.asarray(v) for v in tf.nest.flatten((evaluated, model_state, state))]


def values(model):
    """The model's variables and the optimizer's state, in the order of `loop`."""
    optimizer = model.optimizer
    others = [tf.convert_to_tensor(variable) for variable in model.non_trainable_variables]
    state = optimizer.read()[1]
    parts = tf.nest.flatten((optimizer.parameters(), others or None, state))
    return [np.asarray(value) for value in parts]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
