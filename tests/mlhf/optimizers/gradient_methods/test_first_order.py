"""Keras optimizers with their state in and out against Keras with its own variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from train_val.training.optimizers import KERAS

RULES = {
    "SGD": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.01, rho=0.99),
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.01])
    ),
}


def network(parameters, inputs):
    return tf.tanh(inputs @ parameters["w"]) + parameters["b"]


def start():
    random = np.random.default_rng(0)
    return {"w": tf.constant(random.normal(size=(3, 2))), "b": tf.constant(random.normal(size=2))}


def objective(seed):
    random = np.random.default_rng(seed)
    return mlhf.Objective(
        network,
        "mean_squared_error",
        random.normal(size=(5, 3)),
        random.normal(size=(5, 2)),
        regularizer=mlhf.L2(0.1),
    )


@pytest.mark.parametrize("name", RULES)
def test_steps_are_those_of_keras(name):
    optimizer, parameters = mlhf.FirstOrder(RULES[name]()), start()
    state = optimizer.init(parameters)
    own = RULES[name]()
    variables = [tf.Variable(value) for value in tf.nest.flatten(parameters)]
    own.build(variables)
    for seed in range(4):
        with tf.GradientTape() as tape:
            packed = tf.nest.pack_sequence_as(parameters, [v.value() for v in variables])
            tape.watch(packed)
            loss = tf.reduce_mean(
                (network(packed, objective(seed).inputs) - objective(seed).targets) ** 2
            )
            loss += 0.05 * sum(tf.reduce_sum(leaf**2) for leaf in tf.nest.flatten(packed))
        gradient = tf.nest.flatten(tape.gradient(loss, packed))
        own.apply(gradient, variables)
        parameters, state, _, metrics = optimizer.step(objective(seed), parameters, state)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-12)
        np.testing.assert_allclose(
            metrics["gradient_norm"], tf.linalg.global_norm(gradient), rtol=1e-12
        )
        for got, right in zip(tf.nest.flatten(parameters), variables, strict=True):
            np.testing.assert_allclose(got, right, rtol=1e-9)


def test_two_trainings_do_not_share_a_state():
    optimizer = mlhf.FirstOrder(lambda: keras.optimizers.Adam(0.01))
    alone = mlhf.FirstOrder(keras.optimizers.Adam(0.01))
    runs = [(start(), optimizer.init(start())) for _ in range(2)]
    single = (start(), alone.init(start()))
    for seed in range(3):
        # The second run sees other batches in between.
        runs[1] = optimizer.step(objective(seed + 10), *runs[1])[:2]
        runs[0] = optimizer.step(objective(seed), *runs[0])[:2]
        single = alone.step(objective(seed), *single)[:2]
    for got, right in zip(tf.nest.flatten(runs[0]), tf.nest.flatten(single), strict=True):
        np.testing.assert_array_equal(got, right)
    assert np.any(runs[0][0]["w"] != runs[1][0]["w"])


def test_bad_arguments():
    with pytest.raises(TypeError, match="Expected a Keras optimizer, got 'adam'"):
        mlhf.FirstOrder("adam")
    optimizer = mlhf.FirstOrder(keras.optimizers.SGD)
    optimizer.init(start())
    with pytest.raises(ValueError, match=r"shapes .*3, 2.*got .*4"):
        optimizer.init({"w": tf.ones([4])})
    shared = keras.optimizers.Adam(0.1)
    mlhf.FirstOrder(shared).init(start())
    with pytest.raises(ValueError, match="^Expected an optimizer that nothing uses yet, got"):
        mlhf.FirstOrder(shared).init(start())


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: keras.optimizers.SGD(-1.0), "learning_rate of optimizer, SGD, .* at least 0.*-1"),
        (lambda: keras.optimizers.SGD(float("nan")), "learning_rate of optimizer, SGD, .* got nan"),
        (
            lambda: keras.optimizers.Adam(beta_1=float("nan")),
            "beta_1 of optimizer, Adam, .* nan",
        ),
        (lambda: keras.optimizers.Adam(beta_2=2.0), "beta_2 of optimizer, Adam, .* below 1"),
        (lambda: keras.optimizers.RMSprop(rho=-0.5), "rho of optimizer, RMSprop, .* at least 0"),
        (lambda: keras.optimizers.Adam(epsilon=float("inf")), "epsilon of optimizer, Adam, .* inf"),
    ],
)
def test_numbers_that_keras_takes_without_a_word_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        mlhf.FirstOrder(make)


def test_schedules_and_every_default_of_keras_pass():
    mlhf.FirstOrder(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)))
    for kind in KERAS.values():
        mlhf.FirstOrder(kind)
