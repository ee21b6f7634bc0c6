"""Families of equations: their solutions solve them, references converge, problems measure them."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from train_val import task_families
from train_val.task_families.equations import evolution, references, stationary

PI = np.pi


def product_of_sines(points):
    return tf.sin(PI * points[:, :1]) * tf.sin(PI * points[:, 1:])


def heat_solution(parameters, points):
    return tf.exp(-(PI**2) / 4 * points[:, 1:]) * tf.sin(PI * points[:, :1])


def cole_hopf(points):
    z, w = np.polynomial.hermite.hermgauss(60)
    nu = references.BURGERS_VISCOSITY
    # Away from t = 0, where the root has no derivative.
    y = points[:, :1] - tf.sqrt(4 * nu * (points[:, 1:] + 1e-12)) * z
    f = w * tf.exp(-(tf.cos(PI * y) + 1) / (2 * PI * nu))
    sums = [tf.reduce_sum(f * s, 1, keepdims=True) for s in (tf.sin(PI * y), tf.ones_like(y))]
    return -sums[0] / sums[1]


SOLUTIONS = {
    "poisson": (stationary, lambda _, p: product_of_sines(p), {"per_axis": 5}),
    "poisson_5d": (
        stationary,
        lambda _, p: tf.reduce_sum(tf.sin(PI * p), 1, keepdims=True),
        {"points": 60},
    ),
    "helmholtz": (
        stationary,
        lambda _, p: tf.sin(PI * p[:, :1]) * tf.sin(4 * PI * p[:, 1:]),
        {"per_axis": 5, "wave_number": 3.0},
    ),
    "stiff_ode": (stationary, lambda _, p: tf.cos(p) + tf.exp(-50 * p), {"points": 10}),
    "heat": (evolution, heat_solution, {"per_axis": 5}),
    "inverse_heat": (evolution, heat_solution, {"per_axis": 5, "observations": 7}),
}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_solutions_solve_the_equations(name, monkeypatch):
    module, solution, settings = SOLUTIONS[name]
    monkeypatch.setattr(module, "tanh_network", lambda *_: (solution, lambda seed: {}))
    equation = getattr(module, name)(**settings)
    parameters = {"coefficient": tf.constant(0.25, tf.float64)}
    for term in equation.terms.values():
        assert term.points.dtype == term.targets.dtype == np.float64
        residual = term.residual(parameters, tf.constant(term.points))
        scale = max(1.0, np.abs(term.targets).max())
        np.testing.assert_allclose(residual, term.targets, atol=1e-11 * scale)
    found = equation.solution(parameters, tf.constant(equation.test_points))
    np.testing.assert_allclose(found, equation.reference, atol=1e-12)


def test_burgers_reference_solves_its_equation(monkeypatch):
    monkeypatch.setattr(evolution, "tanh_network", lambda *_: (lambda _, p: cole_hopf(p), None))
    equation = evolution.burgers(per_axis=6)
    points = np.random.default_rng(0).uniform(size=(50, 2)) * [0.8, 0.9] + [0.2, 0.1]
    residual = equation.terms["inside"].residual({}, tf.constant(points))
    np.testing.assert_allclose(residual, np.zeros((50, 1)), atol=1e-8)
    np.testing.assert_allclose(references.burgers(points), cole_hopf(points), atol=1e-10)
    start = equation.terms["start"]
    np.testing.assert_allclose(references.burgers(start.points), start.targets, atol=1e-14)


def test_allen_cahn_reference_converges_and_its_residual_is_the_equation():
    points, values = references.allen_cahn()
    same, finer = references.allen_cahn(1024, 1000)
    np.testing.assert_array_equal(points, same)
    np.testing.assert_allclose(values, finer, atol=1e-6)
    assert points.shape == (1280, 2) and np.unique(points[:, 1]).size == 10


def test_allen_cahn_terms_are_those_of_a_known_function(monkeypatch):
    def known(_, points):
        return tf.sin(PI * points[:, :1] + 0.3) * tf.exp(points[:, 1:])

    monkeypatch.setattr(evolution, "tanh_network", lambda *_: (known, None))
    terms = evolution.allen_cahn(per_axis=4).terms
    x = tf.constant(terms["inside"].points)
    u = known({}, x).numpy()
    expected = u + 1e-4 * PI**2 * u - 5 * (u - u**3)
    np.testing.assert_allclose(terms["inside"].residual({}, x), expected, rtol=1e-10)
    jumps = terms["periodic"].residual({}, tf.constant(terms["periodic"].points))
    np.testing.assert_allclose(jumps, terms["periodic"].targets, atol=1e-12)


def test_a_problem_measures_relative_errors_and_shares_points_out():
    problem = task_families.make("poisson:width=6:depth=1:per_axis=6:batch_size=24")
    zero = tf.nest.map_structure(tf.zeros_like, problem.task.initialize(0))
    assert problem.accuracy(zero) == 1 and problem.measured == "relative L2 error"
    targets = problem.equation.terms["inside"].targets
    np.testing.assert_allclose(problem.training_loss(zero), 0.5 * np.mean(targets**2))
    inputs, _ = next(iter(problem.task.batches(3)))
    assert {name: len(points) for name, points in inputs.items()} == {"inside": 14, "boundary": 10}
    again, _ = next(iter(problem.task.batches(3)))
    np.testing.assert_array_equal(inputs["inside"], again["inside"])
    everything = task_families.make("poisson:width=6:depth=1:per_axis=6:batch_size=1000")
    assert problem.image_fingerprint == everything.image_fingerprint
    inputs, _ = next(iter(everything.task.batches(0)))
    np.testing.assert_array_equal(inputs["inside"], everything.equation.terms["inside"].points)


def test_an_unknown_coefficient_is_found():
    problem = task_families.make("inverse_heat:width=8:depth=1:per_axis=8:batch_size=1000")
    start = problem.task.initialize(0)
    result = mlhf.minimize(
        problem.objective(), start, "self-scaled broyden", steps=120, progress=False
    )
    assert problem.accuracy(result.parameters) < 0.1 * problem.accuracy(start)
    np.testing.assert_allclose(result.parameters["coefficient"], 0.25, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heat", "inverse_heat"])
def test_a_family_can_be_meta_trained_on(name):
    task_families.smoke_test(task_families.make(f"{name}:width=6:depth=1:per_axis=6"))
