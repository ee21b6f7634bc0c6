"""What the gradient methods share: bad batches, compilation, schedules, arguments."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from tests.mlhf.optimizers.gradient_methods import linear_problem as problem
from tests.mlhf.optimizers.gradient_methods.test_reference_steps import network, objective

KINDS = {
    "muon": mlhf.Muon,
    "soap": mlhf.SOAP,
    "prodigy": mlhf.Prodigy,
    "schedule-free": mlhf.ScheduleFreeAdamW,
    "amuse": mlhf.AMUSE,
}


def begun(optimizer, steps=2, dtype=tf.float64):
    """Returns parameters and state after some steps."""
    parameters = {path: tf.constant(w, dtype) for path, w in problem.start().items()}
    state = optimizer.init(parameters)
    for number in range(steps):
        parameters, state = optimizer.step(_of(number, dtype), parameters, state)[:2]
    return parameters, state


def _of(number, dtype=tf.float64):
    parts = [tf.constant(part, dtype) for part in problem.batch(number)]
    return mlhf.Objective(network, "squared_error", *parts)


def equal(a, b):
    for one, other in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", KINDS)
def test_a_bad_batch_leaves_no_trace(name):
    optimizer = KINDS[name]()
    parameters, state = begun(optimizer)
    inputs, targets = problem.batch(2)
    for bad in ((inputs * np.nan, targets), (inputs, np.where(targets > 1, np.inf, targets))):
        step = optimizer.step(mlhf.Objective(network, "squared_error", *bad), parameters, state)
        equal(step[:2], (parameters, state))
        assert float(step.metrics["step_norm"]) == 0
    step = optimizer.step(objective(2), parameters, state)
    assert float(step.metrics["step_norm"]) > 0 and int(step.state.step) == 3


@pytest.mark.parametrize(
    "name", ["muon", *[pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "muon"]]
)
def test_xla_takes_the_same_steps(name):
    plain, compiled = KINDS[name](), KINDS[name](jit_compile=True)
    for a, b in zip(
        tf.nest.flatten(begun(plain, 4)), tf.nest.flatten(begun(compiled, 4)), strict=True
    ):
        if name != "soap" or a.shape.rank != 2:
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    # Eigenvectors have no sign of their own, so that only the parameters can be compared.
    for a, b in zip(begun(plain, 4)[0].values(), begun(compiled, 4)[0].values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_a_schedule_reads_the_count_in_the_state():
    """In a function of the user, where a number would be frozen."""
    optimizer = mlhf.Muon(lambda step: 0.1 / (1 + step))
    parameters, state = begun(optimizer, 0)
    taken = tf.function(lambda p, s: optimizer.step(objective(0), p, s))
    for count in range(3):
        step = taken(parameters, state)
        assert float(step.metrics["learning_rate"]) == pytest.approx(0.1 / (1 + count))
        parameters, state = step.parameters, step.state


def test_numbers_may_change_between_steps():
    optimizer = mlhf.Muon(0.1, weight_decay=0.0)
    parameters, state = begun(optimizer)
    before = optimizer.step(objective(2), parameters, state).parameters
    optimizer.weight_decay = 0.5
    after = optimizer.step(objective(2), parameters, state).parameters
    for path, w in parameters.items():
        np.testing.assert_allclose(after[path], before[path] - 0.1 * 0.5 * w, rtol=1e-9)


def test_the_average_is_what_is_evaluated():
    for name in ("schedule-free", "amuse"):
        optimizer = KINDS[name]()
        parameters, state = begun(optimizer, 5)
        evaluated = optimizer.evaluation_parameters(parameters, state)
        assert any(np.max(np.abs(evaluated[p] - parameters[p])) > 1e-6 for p in parameters)


def test_averages_refuse_constraints():
    constraint = keras.constraints.NonNeg()
    model = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(3, kernel_constraint=constraint)]
    )
    bounded = mlhf.Objective(model, "squared_error", *problem.batch(0))
    parameters = mlhf.get_parameters(model)
    for name, kind in KINDS.items():
        optimizer = kind()
        state = optimizer.init(model)
        if name in ("schedule-free", "amuse"):
            with pytest.raises(ValueError, match="^Expected a model without constraints"):
                optimizer.step(bounded, parameters, state)
        elif name == "muon":
            after = optimizer.step(bounded, parameters, state).parameters
            assert min(float(tf.reduce_min(leaf)) for leaf in after.values()) > -0.1


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("muon", {"learning_rate": 0}, "learning_rate to be a finite number above 0"),
        ("muon", {"momentum": 1}, "momentum to be a finite number at least 0 and below 1"),
        ("muon", {"length": "long"}, r"length to be one of \['rms', 'width'\]"),
        ("muon", {"nesterov": "yes"}, "nesterov to be one of"),
        ("soap", {"basis_every": 0}, "basis_every to be a whole number of at least 1"),
        ("prodigy", {"initial_distance": 0}, "initial_distance to be a finite number above 0"),
        ("schedule-free", {"beta_1": 0}, "beta_1 to be a finite number above 0"),
        ("amuse", {"warmup_steps": 1}, "warmup_steps to be a whole number of at least 2"),
    ],
)
def test_bad_arguments_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        KINDS[name](**arguments)


def test_soap_takes_kernels_as_matrices_or_axis_by_axis():
    parameters = {path: tf.zeros(shape) for path, shape in problem.SHAPES.items()}

    def sides(**options):
        state = mlhf.SOAP(**options).init(parameters)
        return [tuple(factor.shape[0] for factor in one) for one in state.factors]

    assert sides() == [(2, 2, 2, 3), (), (4, 3)]
    assert sides(as_matrices=True) == [(8, 3), (), (4, 3)]
    assert sides(largest_axis=2) == [(2, 2, 2), (), ()]
