"""Schedules against their formulas; every optimizer follows one, inside a function too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from tests.contract import objective, start

DTYPE = tf.float64


def expected(kind, n, horizon, rise):
    value = min(1, (n + 1) / rise) if rise else 1.0
    t = min(max((n - rise) / (horizon - rise), 0), 1)
    return value * {"constant": 1, "linear": 1 - t, "cosine": (1 + np.cos(np.pi * t)) / 2}[kind]


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup, rise", [(0, 0), (3, 3), (0.25, 5)])
def test_rates_are_those_of_the_formula(kind, warmup, rise):
    schedule = mlhf.Schedule(0.3, kind, 20, warmup)
    for n in range(25):
        rate = schedule(tf.constant(n, tf.float64))
        assert rate.dtype == tf.float64
        assert float(rate) == pytest.approx(0.3 * expected(kind, n, 20, rise), abs=1e-15)
    assert float(schedule(19)) > 0
    assert schedule(tf.constant(3)).dtype == tf.float32
    again = mlhf.Schedule.from_config(schedule.get_config())
    assert repr(again) == repr(schedule.with_rate(0.3))
    assert float(schedule.with_rate(0.6)(4)) == pytest.approx(2 * float(schedule(4)))


OPTIMIZERS = {
    "hf": lambda rate: mlhf.HessianFree(rate, 0.1, 1),
    "muon": mlhf.Muon,
    "keras": lambda rate: mlhf.FirstOrder(keras.optimizers.SGD(rate)),
}


def in_keras(rate):
    """Keras' optimizer made with a number, which is replaced afterwards."""
    optimizer = mlhf.FirstOrder(keras.optimizers.SGD(1.0))
    optimizer.learning_rate = rate
    assert optimizer.learning_rate is rate
    return optimizer


@pytest.mark.parametrize("name", [*OPTIMIZERS, "set"])
def test_the_rate_of_a_step_in_a_function_is_that_of_its_count(name):
    schedule = mlhf.Schedule(0.5, "linear", 4)
    optimizer = {**OPTIMIZERS, "set": in_keras}[name](schedule)
    fixed = OPTIMIZERS.get(name, OPTIMIZERS["keras"])(0.5)
    parameters = start(DTYPE)
    state, other = optimizer.init(parameters), fixed.init(parameters)

    @tf.function(autograph=False)
    def steps(parameters, state):
        for _ in range(2):
            parameters, state = optimizer.step(objective(DTYPE), parameters, state)[:2]
        return parameters, state

    # Twice the same graph: steps 0 and 1, then 2 and 3.
    inside = steps(*steps(parameters, state))[0]
    for rate in (0.5, 0.375, 0.25, 0.125):
        fixed.learning_rate = rate
        parameters, other = fixed.step(objective(DTYPE), parameters, other)[:2]
    for a, b in zip(tf.nest.flatten(inside), tf.nest.flatten(parameters), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_number_takes_the_place_of_a_schedule():
    optimizer = in_keras(mlhf.Schedule(0.5, "cosine", 4))
    optimizer.learning_rate = 0.25
    assert optimizer.learning_rate == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, "linear"), "horizon= with the number of steps for a schedule of kind='linear'"),
        ((0.1, "constant", None, 0.1), "horizon= with the number of steps"),
        ((0.1, "step", 10), r"kind to be one of \['constant', 'linear', 'cosine'\], got 'step'"),
        ((0.1, "linear", 10, 10), "warmup to be less than the 10 steps of the horizon, got 10"),
        ((0.1, "linear", 10, 2.5), "warmup to be a whole number of at least 1, got 2.5"),
        ((0, "linear", 10), "learning_rate to be a finite number above 0, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        mlhf.Schedule(*arguments)
