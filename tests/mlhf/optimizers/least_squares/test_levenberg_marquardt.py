"""Levenberg and Marquardt's steps, against dense linear algebra in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf

_random = np.random.default_rng(0)
X, EDGE = _random.normal(size=(7, 2)), _random.normal(size=(3, 2))
Y, VALUES = _random.normal(size=(7, 1)), _random.normal(size=(3, 1))
WEIGHT, DECAY, DAMPING = 3.0, 0.02, 0.05


def network(parameters, inputs):
    return tf.tanh(inputs @ parameters["w"]) @ parameters["v"]


def start(dtype=tf.float64):
    random = np.random.default_rng(1)
    shapes = {"v": (3, 1), "w": (2, 3)}
    return {name: tf.constant(random.normal(size=s), dtype) for name, s in shapes.items()}


def objective(regularizer=None, dtype=tf.float64):
    inside, edge = (
        mlhf.Objective(network, "squared_error", tf.constant(x, dtype), tf.constant(y, dtype))
        for x, y in ((X, Y), (EDGE, VALUES))
    )
    return mlhf.ObjectiveSum({"inside": inside, "edge": edge}, {"edge": WEIGHT}, regularizer)


def residuals(flat):
    """The residuals of `objective`, whose squares' half sum it is, from a flat vector."""
    v, w = flat[:3].reshape(3, 1), flat[3:].reshape(2, 3)
    parts = [
        np.sqrt(weight / len(x)) * (np.tanh(x @ w) @ v - y)
        for weight, x, y in ((WEIGHT, EDGE, VALUES), (1.0, X, Y))
    ]
    return np.concatenate(parts)[:, 0]


def flat(parameters):
    return np.concatenate([np.reshape(parameters[name], -1) for name in ("v", "w")])


def solution(flat, second=None):
    """x of (JᵀJ + c I + λ I) x = g, or of = Jᵀ r'' instead; J by complex steps."""
    unit = np.eye(len(flat))
    jacobian = np.stack([residuals(flat + 1e-30j * e).imag / 1e-30 for e in unit], 1)
    gauss_newton = jacobian.T @ jacobian + DECAY * unit
    # λ is a multiple of the mean of the diagonal.
    damping = DAMPING * np.trace(gauss_newton) / len(flat)
    right = jacobian.T @ (residuals(flat) if second is None else second)
    right += DECAY * flat if second is None else 0
    return np.linalg.solve(gauss_newton + damping * unit, right)


@pytest.mark.parametrize("method", mlhf.LM_METHODS)
def test_a_step(method):
    exact = {"cg_tolerance": 1e-13, "rank": 9, "cg_iterations": 60} if method == "cg" else {}
    optimizer = mlhf.LevenbergMarquardt(DAMPING, method=method, **exact)
    parameters = start()
    step = optimizer.step(objective(mlhf.L2(DECAY)), parameters, optimizer.init(parameters))
    here = flat(parameters)
    velocity = -solution(here)
    h = 1e-4
    second = sum(k * residuals(here + s * h * velocity) for k, s in ((1, 1), (-2, 0), (1, -1)))
    acceleration = -solution(here, second / h**2)
    bends = np.linalg.norm(acceleration) <= 0.75 * np.linalg.norm(velocity)
    assert bends and step.metrics["accelerated"] == 1 and step.metrics["trials"] == 1
    # The trace of a sketch of full rank is that of the terms, without the regularizer.
    tolerance = 1e-6 if method != "cg" else 0.05
    expected = here + velocity + 0.5 * acceleration
    moved = np.linalg.norm(expected - here)
    assert np.linalg.norm(flat(step.parameters) - expected) < tolerance * moved
    assert optimizer.chosen == method == mlhf.LM_METHODS[step.metrics["method"]]
    assert {"loss_edge", "loss_inside"} <= set(step.metrics)


def test_losses_only_fall_and_exact_data_is_fitted_to_rounding():
    parameters, truth = start(), start()
    inputs = tf.constant(_random.normal(size=(20, 2)))
    parameters["w"] += 0.3
    fit = mlhf.Objective(network, "squared_error", inputs, network(truth, inputs))
    optimizer = mlhf.LevenbergMarquardt(1e-6)
    state = optimizer.init(parameters)
    losses, trials = [], []
    for _ in range(40):
        parameters, state, _, metrics = optimizer.step(fit, parameters, state)
        losses.append(float(metrics["loss"]))
        trials.append(int(metrics["trials"]))
    assert np.all(np.diff(losses) <= 0) and losses[-1] < 1e-26
    # λ was too small at first and was raised within a step.
    assert max(trials) > 1
    assert optimizer.chosen == "parameters"


def test_single_precision_and_xla(caplog):
    parameters = start(tf.float32)
    taken = []
    for compiled in (False, True):
        optimizer = mlhf.LevenbergMarquardt(DAMPING, jit_compile=compiled, trials=2)
        with caplog.at_level("INFO", "mlhf"):
            taken.append(
                optimizer.step(objective(None, tf.float32), parameters, optimizer.init(parameters))
            )
    assert "method 'parameters' for 10 residuals and 9 parameters" in caplog.text
    plain, compiled = (flat(step.parameters) for step in taken)
    assert plain.dtype == np.float32
    np.testing.assert_allclose(plain, compiled, rtol=2e-5, atol=1e-6)


def test_a_batch_that_is_not_finite_moves_nothing():
    parameters, optimizer = start(), mlhf.LevenbergMarquardt(trials=2)
    bad = mlhf.Objective(network, "squared_error", X * np.nan, Y)
    step = optimizer.step(bad, parameters, optimizer.init(parameters))
    np.testing.assert_array_equal(flat(step.parameters), flat(parameters))
    assert step.state.damping == -1
    again = optimizer.step(
        mlhf.Objective(network, "squared_error", X, Y), step.parameters, step.state
    )
    assert np.all(np.isfinite(flat(again.parameters))) and again.metrics["step_norm"] > 0


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="^Expected method to be one of"):
        mlhf.LevenbergMarquardt(method="qr")
    with pytest.raises(ValueError, match="^Expected damping"):
        mlhf.LevenbergMarquardt(0.0)
    optimizer = mlhf.LevenbergMarquardt(method="residuals")
    partial = objective(mlhf.L2(0.1, excluded={"v"}))
    with pytest.raises(ValueError, match='no regularizer but an mlhf.L2 of all .* method="cg"'):
        optimizer.step(partial, start(), optimizer.init(start()))
