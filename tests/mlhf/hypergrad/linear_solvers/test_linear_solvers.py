"""Every solver against dense solves, and the systems on which others returned nonsense."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf.hypergrad import linear_solvers
from mlhf.hypergrad.linear_solvers import (
    ConjugateGradient,
    FixedPoint,
    LinearSolveError,
    Neumann,
    NormalEquations,
    Nystrom,
)

SIZE = 8
RIGHT = np.arange(1.0, SIZE + 1)

EXACT = {
    "conjugate gradient": ConjugateGradient(tolerance=1e-12),
    "normal equations": NormalEquations(tolerance=1e-13),
    "neumann": Neumann(terms=150),
    "fixed point": FixedPoint(max_iterations=150, tolerance=1e-12),
}


def matrix(lowest=1.0, largest=4.0, seed=0, n=SIZE):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return (q * np.linspace(lowest, largest, n)) @ q.T


def system(A, symmetric=True):
    A = tf.constant(A)
    return linear_solvers.System(
        lambda v: tf.linalg.matvec(A, v),
        None if symmetric else lambda v: tf.linalg.matvec(A, v, transpose_a=True),
    )


def solve(solver, A, b=RIGHT, x0=None, symmetric=True):
    return solver.solve(
        system(A, symmetric), tf.constant(b), None if x0 is None else tf.constant(x0)
    )


@pytest.mark.parametrize("name", EXACT)
def test_solves_a_positive_definite_system(name):
    got = solve(EXACT[name], matrix())
    np.testing.assert_allclose(got.x, np.linalg.solve(matrix(), RIGHT), rtol=1e-9)
    true = np.linalg.norm(RIGHT - matrix() @ got.x.numpy()) / np.linalg.norm(RIGHT)
    assert got.residual == pytest.approx(true, abs=1e-14) and got.residual < 1e-10
    if "conjugate" in name or "normal" in name:
        assert got.iterations <= SIZE + 4  # the largest number allowed is far above P


@pytest.mark.parametrize("name", EXACT)
def test_damping_is_added_to_the_diagonal(name):
    solver = type(EXACT[name])(damping=2.0)
    got = solve(solver, matrix())
    right = np.linalg.solve(matrix() + 2 * np.eye(SIZE), RIGHT)
    np.testing.assert_allclose(got.x, right, rtol=1e-4)
    assert np.abs(right - np.linalg.solve(matrix(), RIGHT)).max() > 0.1


@pytest.mark.parametrize("name", EXACT)
def test_the_identity(name):
    solver = Neumann(terms=3, step=1.0) if name == "neumann" else EXACT[name]
    solver = FixedPoint(step=1.0) if name == "fixed point" else solver
    got = solve(solver, np.eye(SIZE))
    np.testing.assert_allclose(got.x, RIGHT, rtol=1e-12)
    assert got.iterations == 1 and got.residual < 1e-12 and got.reason == "converged"


@pytest.mark.parametrize("solver", [*EXACT.values(), Nystrom()], ids=repr)
def test_a_right_hand_side_of_zero(solver):
    got = solve(solver, matrix(), np.zeros(SIZE))
    np.testing.assert_array_equal(got.x, np.zeros(SIZE))
    assert (got.residual, got.iterations) == (0.0, 0)


@pytest.mark.parametrize("solver", [*EXACT.values(), Nystrom()], ids=repr)
def test_a_right_hand_side_that_is_not_finite(solver):
    with pytest.raises(LinearSolveError, match="training may have diverged"):
        solve(solver, matrix(), np.array([np.nan] + [1.0] * (SIZE - 1)))


@pytest.mark.parametrize(
    "solver",
    [
        ConjugateGradient(),
        Neumann(terms=200),
        Neumann(terms=200, step=0.1),
        FixedPoint(max_iterations=200),
        Nystrom(rank=SIZE),
    ],
    ids=repr,
)
def test_an_indefinite_system_is_refused_with_the_remedy(solver):
    A = matrix(-1.0, 4.0)
    with pytest.raises(LinearSolveError, match="curvature -.*no minimum.*damping above") as error:
        solve(solver, A)
    # The damping that it asks for is at most what is needed, and helps on the way there.
    asked = float(str(error.value).split("damping above ")[1].split(")")[0])
    assert 0 < asked <= 1.05
    assert "NormalEquations" in str(error.value) and "GaussNewton" in str(error.value)


def test_normal_equations_take_indefinite_and_unsymmetric_systems():
    got = solve(EXACT["normal equations"], matrix(-1.0, 4.2))
    np.testing.assert_allclose(got.x, np.linalg.solve(matrix(-1.0, 4.2), RIGHT), rtol=1e-8)
    A = matrix() + np.triu(np.random.default_rng(1).normal(size=(SIZE, SIZE)))
    got = solve(EXACT["normal equations"], A, symmetric=False)
    np.testing.assert_allclose(got.x, np.linalg.solve(A, RIGHT), rtol=1e-8)
    with pytest.raises(LinearSolveError, match="null space"):
        solve(NormalEquations(), np.diag([1.0, 0, 0, 0, 0, 0, 0, 0]), np.eye(SIZE)[1])


def test_neumann_is_the_truncated_series():
    A, step = matrix(), 0.3
    for terms in (0, 1, 5):
        powers = (np.linalg.matrix_power(np.eye(SIZE) - step * A, k) for k in range(terms + 1))
        right = step * sum(power @ RIGHT for power in powers)
        got = solve(Neumann(terms, step), A)
        np.testing.assert_allclose(got.x, right, rtol=1e-12)
        assert got.iterations == terms
        # And one iteration more of the fixed point is the same thing.
        got = solve(FixedPoint(terms + 1, step), A)
        np.testing.assert_allclose(got.x, right, rtol=1e-12)


@pytest.mark.parametrize("make", [Neumann, FixedPoint])
def test_a_step_that_is_too_long_is_detected(make):
    largest = 4.0
    solve(make(200, 1.99 / largest), matrix())
    with pytest.raises(LinearSolveError, match="over 2 / λ_max.*Take a step under") as error:
        solve(make(200, 2.1 / largest), matrix())
    advised = float(str(error.value).split("step under ")[1].split(",")[0])
    assert advised == pytest.approx(2 / largest, rel=0.1)


def test_convergence_to_rounding_is_no_divergence():
    for solver in (Neumann(200, step=0.4), FixedPoint(200, step=0.4, tolerance=0.0)):
        got = solve(solver, matrix())
        assert got.residual < 1e-14 and got.iterations == 200


def test_iterations_start_where_they_are_told():
    right = np.linalg.solve(matrix(), RIGHT)
    for solver in (FixedPoint(tolerance=1e-10), ConjugateGradient(tolerance=1e-10)):
        cold, warm = solve(solver, matrix()), solve(solver, matrix(), x0=right * (1 + 1e-9))
        assert warm.iterations < cold.iterations / 2
        np.testing.assert_allclose(warm.x, right, rtol=1e-8)


def test_running_out_of_iterations_is_reported():
    for solver in (ConjugateGradient(2), FixedPoint(2), Neumann(2), NormalEquations(2)):
        got = solve(solver, matrix())
        assert got.reason == "maximum of iterations" and got.iterations == 2
        assert 1e-3 < got.residual < 1


def test_nystrom_with_all_rows_is_the_damped_solution():
    rho = 0.05
    right = np.linalg.solve(matrix() + rho * np.eye(SIZE), RIGHT)
    for rank in (SIZE, 10 * SIZE):
        got = solve(Nystrom(rank, rho), matrix())
        np.testing.assert_allclose(got.x, right, rtol=1e-9)
        assert got.residual < 1e-10 and got.iterations == SIZE


def test_nystrom_is_woodburys_formula_on_some_rows():
    A, rank, rho = matrix(), 3, 0.1
    got = solve(Nystrom(rank, rho, seed=4), A)
    rows = np.random.default_rng(4).choice(SIZE, rank, replace=False)
    approximation = A[:, rows] @ np.linalg.inv(A[np.ix_(rows, rows)]) @ A[rows]
    right = np.linalg.solve(approximation + rho * np.eye(SIZE), RIGHT)
    np.testing.assert_allclose(got.x, right, rtol=1e-9)
    true = np.linalg.norm(RIGHT - (A + rho * np.eye(SIZE)) @ right) / np.linalg.norm(RIGHT)
    assert got.residual == pytest.approx(true, rel=1e-6) and true > 0.1


def test_nystrom_with_rows_of_zeros():
    A = np.diag([3.0, 0, 0, 2, 1, 0, 0, 5])
    got = solve(Nystrom(SIZE, 0.5), A)
    np.testing.assert_allclose(got.x, RIGHT / (np.diag(A) + 0.5), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "arguments", "complaint"),
    [
        (ConjugateGradient, {"max_iterations": 0}, "max_iterations"),
        (ConjugateGradient, {"damping": -1.0}, "damping"),
        (NormalEquations, {"tolerance": float("nan")}, "tolerance"),
        (Neumann, {"step": 0.0}, "step"),
        (Neumann, {"terms": -1}, "terms"),
        (FixedPoint, {"step": -1.0}, "step"),
        (Nystrom, {"rho": 0.0}, "rho"),
        (Nystrom, {"rank": 1.5}, "rank"),
    ],
)
def test_settings_that_make_no_sense(make, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        make(**arguments)


def test_the_repr_names_the_settings():
    assert repr(Neumann(3, 0.5)) == "Neumann(terms=3, step=0.5, damping=0.0)"
