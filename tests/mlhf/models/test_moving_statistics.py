"""Statistics of normalisation taken anew, of models of all forms."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf

L = keras.layers
X = np.random.default_rng(0).normal([100, 2, 3], [0.5, 2, 1], [60, 3]).astype("float32")


class Shared(keras.Model):
    """One normalisation called twice, one in an inner model, one frozen, one told not to train."""

    def __init__(self):
        super().__init__()
        self.shared = L.BatchNormalization(momentum=0.3)
        self.inner = keras.Sequential([L.Dense(3), L.BatchNormalization(momentum=1.0)])
        self.frozen = L.BatchNormalization(trainable=False)
        self.still, self.layer = L.BatchNormalization(), L.LayerNormalization()
        self.drop = L.Dropout(0.5, seed=1)

    def call(self, x, training=None):
        first = self.shared(x) + self.shared(2 * x + 1)
        second = self.layer(self.frozen(self.inner(first)))
        return self.drop(self.still(second, training=False))


def normalize(v, epsilon=1e-3):
    return (v - v.mean(0)) / np.sqrt(v.var(0) + epsilon)


def test_every_normalisation_has_the_statistics_of_its_inputs():
    keras.utils.set_random_seed(1)
    model = Shared()
    model(X[:2])
    before = {path: value.numpy() for path, value in mlhf.get_model_state(model).items()}
    parameters = {p: v + 0.1 * tf.ones_like(v) for p, v in mlhf.get_parameters(model).items()}
    batches = [(X[:40], "targets"), (X[40:], "targets")]
    state = mlhf.population_statistics(model, batches, parameters)
    for path, value in mlhf.get_model_state(model).items():
        np.testing.assert_array_equal(value, before[path])
    assert model.shared.momentum == 0.3

    def of(layer):
        variables = zip(sorted(state), model.non_trainable_variables, strict=True)
        names = {variable.path: name for name, variable in variables}
        return state[names[layer.moving_mean.path]], state[names[layer.moving_variance.path]]

    values = X.astype("float64")
    twice = np.concatenate([values, 2 * values + 1])
    mean, variance = of(model.shared)
    np.testing.assert_allclose(mean, twice.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, twice.var(0), rtol=1e-4)
    # Later layers see what earlier ones make of a batch with its own statistics, as in training.
    parts = []
    for x in (values[:40], values[40:]):
        gamma, beta = 1.1, 0.1
        first = sum(gamma * normalize(v) + beta for v in (x, 2 * x + 1))
        kernel, bias = (parameters[v.path].numpy() for v in model.inner.layers[0].variables)
        parts.append(first @ kernel + bias)
    hidden = np.concatenate(parts)
    mean, variance = of(model.inner.layers[1])
    np.testing.assert_allclose(mean, hidden.mean(0), atol=1e-4)
    np.testing.assert_allclose(variance, hidden.var(0), rtol=1e-3)
    for layer in (model.frozen, model.still):
        for found, expected in zip(of(layer), (0, 1), strict=True):
            np.testing.assert_array_equal(found, np.full(3, expected, "f"))
    # Nor does the generator of dropout move.
    (seed,) = [path for path in state if "seed" in path]
    np.testing.assert_array_equal(state[seed], before[seed])


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda: mlhf.FirstOrder(keras.optimizers.SGD(0.5)), 15),
        pytest.param(lambda: mlhf.KFAC(0.3, damping=0.1), 100, marks=pytest.mark.slow),
    ],
    ids=["SGD", "K-FAC"],
)
def test_a_network_that_looks_ruined_is_not(make, steps):
    """The stand-in for 61% against 97%: after a few steps, evaluation is that of training mode."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, 6))
    labels = random.integers(0, 4, 400)
    x = (3 + 2 * (centres[labels] + 0.4 * random.normal(size=(400, 6)))).astype("float32")
    keras.utils.set_random_seed(0)
    layers = [L.Dense(12), L.BatchNormalization(), L.ReLU(), L.Dense(4)]
    model = keras.Sequential([keras.Input([6]), *layers])
    optimizer = make()
    parameters, state = mlhf.get_parameters(model), optimizer.init(model)
    model_state = mlhf.get_model_state(model)
    for k in range(steps):
        rows = np.random.default_rng(k).choice(400, 100, replace=False)
        objective = mlhf.Objective(
            model, "softmax_cross_entropy", x[rows], labels[rows], model_state
        )
        parameters, state, model_state, _ = optimizer.step(objective, parameters, state)
    mlhf.set_parameters(model, parameters)

    def accuracy(model_state, **settings):
        mlhf.set_model_state(model, model_state)
        return np.mean(np.argmax(model(x, **settings), 1) == labels)

    in_training = accuracy(model_state, training=True)
    left = accuracy(model_state)
    anew = accuracy(mlhf.population_statistics(model, [x[:200], x[200:]], parameters, model_state))
    assert in_training > 0.9
    assert abs(anew - in_training) < 0.02
    # After a hundred steps the averages have come some of the way.
    assert left < anew - (0.1 if steps < 100 else 0)


def test_what_has_no_statistics_and_what_is_refused():
    model = keras.Sequential([keras.Input([3]), L.Dense(2)])
    assert mlhf.population_statistics(model, []) is None
    dropped = keras.Sequential([keras.Input([3]), L.Dropout(0.5), L.Dense(2)])
    (seed,) = mlhf.population_statistics(dropped, [X]).values()
    np.testing.assert_array_equal(seed, dropped.non_trainable_variables[0])
    normed = keras.Sequential([keras.Input([3]), L.BatchNormalization()])
    with pytest.raises(ValueError, match="batches to take statistics of, got none"):
        mlhf.population_statistics(normed, [])
    # Of a pair, targets would count as a batch of inputs.
    for one in (X, tf.constant(X), (X, X), {"x": X}):
        with pytest.raises(TypeError, match="Expected batches, .*put one batch into a list"):
            mlhf.population_statistics(normed, one)
    with pytest.raises(ValueError, match="Expected parameters for .*gamma"):
        mlhf.population_statistics(normed, [X], {})
    with pytest.raises(ValueError, match="Expected a state of .*moving_mean"):
        mlhf.population_statistics(normed, [X], model_state={"a": tf.ones(3)})
    with pytest.raises(TypeError, match="Expected a Keras model.*momentum of 0"):
        mlhf.population_statistics(lambda p, x: x, [X])
    # An endless stream ends where enough was seen.
    found = mlhf.population_statistics(normed, itertools.repeat(X), examples=100)
    np.testing.assert_allclose(found[sorted(found)[0]], X.mean(0), rtol=1e-6)
    # The means are a hundred times the deviations: no digits are lost between batches.
    parts = mlhf.population_statistics(normed, [X[:7], X[7:]])
    np.testing.assert_allclose(parts[sorted(parts)[1]], X.astype("float64").var(0), rtol=1e-4)
