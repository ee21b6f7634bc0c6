"""Numbers that are set hold from the next step on, however that step is run."""

import copy
import dataclasses
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_training.arguments import check_learnable
from tests.contract import batch, quadratic, start

DTYPE = tf.float64
BATCH = batch(DTYPE)
PARAMETERS = tf.nest.map_structure(lambda leaf: leaf + 0.3, start(DTYPE))


def sgd():
    return mlhf.FirstOrder(keras.optimizers.SGD(0.25, momentum=0.5))


# The optimizer, and what is set one after the other.
CASES = {
    "hf": (lambda: mlhf.HessianFree(0.5, 0.1, 2), {"learning_rate": 1e-3, "damping": 7.0}),
    "martens": (
        lambda: mlhf.MartensHessianFree(0.1, 5, damping_type="regular"),
        {"damping": 7.0},
    ),
    "kfac": (
        lambda: mlhf.KFAC(0.1, 0.1),
        {"learning_rate": 1e-3, "momentum": 0.25, "damping": 7.0},
    ),
    "meta": (
        lambda: mlhf.MetaHessianFree(0.5, damping=0.1),
        {"learning_rate": 1e-3, "damping": 7.0, "weights": None},
    ),
    "sgd": (sgd, {"learning_rate": 1e-3}),
}


def objective():
    return mlhf.Objective(quadratic, "squared_error", *BATCH)


def other_weights(optimizer):
    return {
        role: LSTMWeights(*[value + 0.5 for value in weights])
        for role, weights in optimizer.weights.items()
    }


def in_a_loop(optimizer, **options):
    @tf.function(**options)
    def steps(parameters, state, count):
        for _ in tf.range(count):
            step = optimizer.step(objective(), parameters, state)
            parameters, state = step.parameters, step.state
        return parameters, state

    return lambda *point: steps(*point, tf.constant(1))


def check(name, run_of):
    """Sets one number after the other, and compares with steps outside of any function."""
    make, changes = CASES[name]
    inside, outside = make(), make()
    point = PARAMETERS, inside.init(PARAMETERS)
    outside.init(PARAMETERS)
    run, before = run_of(inside), None
    # The second step, at which there is a state, and momentum shows.
    point = run(*point)
    for attribute, value in [(None, None), *changes.items()]:
        for optimizer in (inside, outside):
            if attribute == "weights":
                optimizer.weights = other_weights(optimizer)
            elif attribute is not None:
                setattr(optimizer, attribute, value)
                assert getattr(optimizer, attribute) == pytest.approx(value, rel=1e-7)
        moved = run(*point)
        expected = outside.step(objective(), *point)
        for a, b in zip(tf.nest.flatten(moved), tf.nest.flatten(expected[:2]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=str(attribute))
        change = np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(moved[0])])
        if before is not None:
            assert np.max(np.abs(change - before)) > 1e-5, attribute
        before = change


@pytest.mark.parametrize("name", CASES)
def test_a_number_that_is_set_holds_in_a_function_of_the_user(name):
    check(name, in_a_loop)


@pytest.mark.parametrize(
    "name", ["hf", *[pytest.param(n, marks=pytest.mark.slow) for n in CASES if n != "hf"]]
)
def test_and_under_xla(name):
    make, _ = CASES[name]
    check(name, lambda optimizer: tf.function(_one_step(optimizer), jit_compile=True))
    if name != "hf":
        return
    compiled = mlhf.HessianFree(0.5, 0.1, 2, jit_compile=True)
    state = compiled.init(PARAMETERS)
    long = compiled.step(objective(), PARAMETERS, state).metrics["step_norm"]
    compiled.learning_rate = 0.05
    short = compiled.step(objective(), PARAMETERS, state).metrics["step_norm"]
    np.testing.assert_allclose(10 * short, long)


def _one_step(optimizer):
    return lambda *point: optimizer.step(objective(), *point)[:2]


@pytest.mark.parametrize("name", CASES)
def test_outside_of_functions_numbers_are_those_of_a_new_optimizer(name):
    """Against an optimizer made with them, from which what is set differs in nothing."""
    if name in ("meta", "sgd"):
        pytest.skip("their constructors do not take all of it; the test above compares modes")
    make, changes = CASES[name]
    changed = make()
    state = changed.init(PARAMETERS)
    changed.step(objective(), PARAMETERS, state)
    for attribute, value in changes.items():
        setattr(changed, attribute, value)
    new = make()
    for attribute, value in changes.items():
        setattr(new, attribute, value)
    first = changed.step(objective(), PARAMETERS, state)
    second = new.step(objective(), PARAMETERS, new.init(PARAMETERS))
    for a, b in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_rate_may_be_a_variable_a_tensor_or_set_where_the_function_runs():
    rate = tf.Variable(0.5, dtype=tf.float32)
    optimizers = {
        "hf": mlhf.HessianFree(rate, 0.1, 2),
        "sgd": mlhf.FirstOrder(keras.optimizers.SGD(0.1)),
    }
    optimizers["sgd"].learning_rate = rate
    for name, optimizer in optimizers.items():
        rate.assign(0.5)
        state = optimizer.init(PARAMETERS)

        def moved(optimizer=optimizer, state=state):
            after = optimizer.step(objective(), PARAMETERS, state).parameters
            return tf.norm(after["dense"]["kernel"] - PARAMETERS["dense"]["kernel"])

        inside = tf.function(moved)
        assert optimizer.learning_rate is rate
        long = [moved(), inside()]
        rate.assign(0.05)
        np.testing.assert_allclose([10 * moved(), 10 * inside()], long, rtol=1e-6)
        # The function reads that variable, and another number would not be seen.
        with pytest.raises(ValueError, match="^Expected learning_rate to stay .*Make another"):
            optimizer.learning_rate = 1.0
        fresh = mlhf.HessianFree(0.5, 0.1, 2) if name == "hf" else sgd()

        state = fresh.init(PARAMETERS)

        @tf.function
        def halved(rate, fresh=fresh, state=state):
            fresh.learning_rate = rate / 2
            return fresh.step(objective(), PARAMETERS, state).parameters, fresh.learning_rate

        for value in (0.5, 0.1):
            _, seen = halved(tf.constant(value))
            assert float(seen) == pytest.approx(value / 2)
            assert fresh.learning_rate == pytest.approx(value / 2)
    with pytest.raises(ValueError, match=r"floating variable of shape \(\), got.*\(2,\)"):
        mlhf.HessianFree(tf.Variable([1.0, 2.0]))


SCHEDULED = {
    "hf": lambda rate: mlhf.HessianFree(rate, 0.1, 2),
    "kfac": lambda rate: mlhf.KFAC(rate, 0.1),
    "meta": lambda rate: mlhf.MetaHessianFree(rate, damping=0.1),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_rate_may_be_a_schedule_of_the_steps_taken(name):
    """Each step is that of an optimizer with the schedule's number, in a function and outside."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.5, 0.25, 0.125])
    optimizer, number = SCHEDULED[name](schedule), SCHEDULED[name](1.0)
    assert optimizer.learning_rate is schedule
    looped = in_a_loop(optimizer)
    state, plain = optimizer.init(PARAMETERS), number.init(PARAMETERS)
    inside = PARAMETERS, state
    parameters, expected = PARAMETERS, PARAMETERS
    for count, rate in enumerate((0.5, 0.25, 0.125)):
        assert int(state.step) == count
        number.learning_rate = rate
        parameters, state = optimizer.step(objective(), parameters, state)[:2]
        expected, plain = number.step(objective(), expected, plain)[:2]
        inside = looped(*inside)
        for a, b, c in zip(*map(tf.nest.flatten, (parameters, expected, inside[0])), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(a, c, rtol=1e-9)
    if name == "hf":
        # A state without a count begins at 0; a count that nobody asks for is dropped.
        again = optimizer.step(objective(), PARAMETERS, number.init(PARAMETERS))
        assert int(again.state.step) == 1
        assert number.step(objective(), PARAMETERS, again.state).state.step == ()
        halving = mlhf.HessianFree(lambda n: 0.5 / (1 + n), 0.1, 2)
        taken = halving.step(objective(), PARAMETERS, halving.init(PARAMETERS))
        norm = taken.metrics["step_norm"]
        second = halving.step(
            objective(), PARAMETERS, halving.init(PARAMETERS)._replace(step=tf.constant(1))
        )
        np.testing.assert_allclose(second.metrics["step_norm"], norm / 2)
        with pytest.raises(ValueError, match="^Expected learning_rate to stay of its kind"):
            optimizer.learning_rate = 0.1
    if name == "meta":
        with pytest.raises(ValueError, match="^Expected learning_rate to be a number here"):
            optimizer.save("never")
        with pytest.raises(ValueError, match="^Expected learning_rate to be a number here"):
            check_learnable([None], optimizer)


def test_what_can_not_change_says_so():
    optimizer = mlhf.HessianFree(0.5, 0.1, 2, damping_type="LM_heuristics")
    assert (optimizer.cg_iterations, optimizer.decay, optimizer.jit_compile) == (2, 0.9, False)
    for name in ("cg_iterations", "decay", "curvature_share", "jit_compile"):
        with pytest.raises(AttributeError, match=f"^Expected {name} to stay .*Make another"):
            setattr(optimizer, name, 1)
    with pytest.raises(AttributeError, match=r"\['damping', 'learning_rate'\], got 'momentum'"):
        optimizer.momentum = 0.9
    for value in (0, -1.0, float("nan"), "fast", None):
        with pytest.raises(ValueError, match="^Expected learning_rate to be a finite number"):
            optimizer.learning_rate = value
    # An adapted damping is the state's: what is set is where the next ones begin.
    before = optimizer.init(PARAMETERS)
    optimizer.damping = 0.2
    taken = optimizer.step(objective(), PARAMETERS, before).metrics
    assert float(taken["damping"]) == 0.1 and float(optimizer.init(PARAMETERS).damping) == 0.2
    meta = mlhf.MetaHessianFree()
    with pytest.raises(AttributeError, match="^Expected rule to stay"):
        meta.rule = dataclasses.replace(meta.rule, cg_iterations=8)
    with pytest.raises(TypeError, match="schedule gives it"):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
        mlhf.FirstOrder(keras.optimizers.SGD(schedule)).learning_rate = 0.1
    kfac = mlhf.KFAC()
    with pytest.raises(ValueError, match="^Expected momentum=None without a learning_rate"):
        kfac.momentum = 0.5
    tf.function(lambda: kfac.step(objective(), PARAMETERS, kfac.init(PARAMETERS)))()
    with pytest.raises(ValueError, match="^Expected learning_rate to stay of its kind"):
        kfac.learning_rate = 0.1


def test_copies_have_numbers_of_their_own():
    optimizer = mlhf.HessianFree(0.1, 0.3)
    for copied in (
        copy.copy(optimizer),
        copy.deepcopy(optimizer),
        pickle.loads(pickle.dumps(optimizer)),
    ):
        copied.learning_rate = 2.0
        assert (optimizer.learning_rate, copied.damping, copied.cg_iterations) == (0.1, 0.3, 4)
