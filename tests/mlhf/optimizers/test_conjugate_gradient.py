"""Conjugate gradients against direct solves and NumPy, and the derivative of the paper's."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_optimizer import recorded_cg
from tests.mlhf import reference

N = 6


def well_conditioned(seed=0, n=N):
    random = np.random.default_rng(seed)
    q, _ = np.linalg.qr(random.normal(size=(n, n)))
    return (q * np.linspace(1, 3, n)) @ q.T


def solve(A, b, dtype=tf.float64, **arguments):
    A = tf.constant(A, dtype)
    for name in ("x0", "preconditioner"):
        if isinstance(arguments.get(name), np.ndarray):
            arguments[name] = tf.constant(arguments[name], dtype)
    return mlhf.conjugate_gradient(
        lambda v: tf.linalg.matvec(A, v), tf.constant(b, dtype), **arguments
    )


def reason(solution):
    return mlhf.CG_REASONS[int(solution.reason)]


def relative(got, right):
    return np.linalg.norm(got - right) / np.linalg.norm(right)


@pytest.mark.parametrize(("dtype", "accuracy"), [(tf.float32, 1e-6), (tf.float64, 1e-14)])
def test_solves_to_the_dtypes_accuracy(dtype, accuracy):
    A, b = well_conditioned(), np.arange(1.0, N + 1)
    got = solve(A, b, dtype, max_iterations=50)
    assert relative(got.x, np.linalg.solve(A, b)) < accuracy
    np.testing.assert_allclose(
        got.residual, b - A @ got.x.numpy(), atol=accuracy * np.linalg.norm(b)
    )
    assert reason(got) == "converged"
    assert int(got.iterations) <= N + 3


def test_takes_as_many_iterations_as_it_may():
    A, b = well_conditioned(), np.arange(1.0, N + 1)
    errors = [relative(solve(A, b, max_iterations=n).x, np.linalg.solve(A, b)) for n in (1, 3, N)]
    assert errors[0] > 3 * errors[1] > 0 and errors[2] < 1e-12
    got = solve(A, b, max_iterations=3)
    assert int(got.iterations) == 3
    assert reason(got) == "maximum of iterations"
    np.testing.assert_allclose(got.residual, b - A @ got.x.numpy(), atol=1e-12)


def badly_scaled(scale):
    """Eigenvalues over 8 decades, a diagonal that tells them, and a right-hand side."""
    d = np.logspace(-4, 4, N)
    root = np.sqrt(d)
    A = root[:, None] * well_conditioned() * root
    x = scale * np.random.default_rng(1).normal(size=N) / root
    return A, A @ x, 1 / np.diag(A), x


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
@pytest.mark.parametrize(("dtype", "accuracy"), [(tf.float32, 1e-4), (tf.float64, 1e-12)])
def test_badly_scaled_systems(scale, dtype, accuracy):
    A, b, preconditioner, x = badly_scaled(scale)
    got = solve(A, b, dtype, preconditioner=preconditioner, max_iterations=60)
    # Each coordinate in its own unit.
    unit = np.sqrt(np.diag(A))
    assert relative(unit * got.x.numpy().astype(float), unit * x) < accuracy


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("size", [1e-30, 1e20])
def test_right_hand_sides_of_any_size(size, dtype):
    A, b = well_conditioned(), np.arange(1.0, N + 1)
    got = solve(A, size * b, dtype, max_iterations=20)
    assert relative(got.x.numpy().astype(float) / size, np.linalg.solve(A, b)) < 1e-5
    assert reason(got) == "converged"


def test_a_start_that_is_far_too_large_for_a_tiny_right_hand_side_is_left_out():
    A, b = well_conditioned(), 1e-30 * np.arange(1.0, N + 1)
    got = solve(A, b, tf.float32, x0=np.ones(N), max_iterations=20)
    assert relative(got.x.numpy().astype(float), np.linalg.solve(A, b)) < 1e-5
    assert reason(got) == "converged"


def test_paper_mode_is_the_papers_and_wrong_where_the_relative_is_right():
    A, b, preconditioner, x = badly_scaled(1e-5)
    unit = np.sqrt(np.diag(A))
    for n in (1, 2, 20):
        paper = solve(A, b, preconditioner=preconditioner, max_iterations=n, guards="paper")
        right, residual, used = reference.conjugate_gradient(
            lambda v: v @ A, b, np.zeros(N), preconditioner, n
        )
        np.testing.assert_allclose(paper.x, right, rtol=1e-10)
        np.testing.assert_allclose(paper.residual, residual, rtol=1e-8)
        assert int(paper.iterations) == used
    good = solve(A, b, preconditioner=preconditioner, max_iterations=20)
    assert relative(unit * paper.x, unit * x) > 0.5
    assert relative(unit * good.x, unit * x) < 1e-12


def test_paper_mode_stops_by_its_absolute_tolerance():
    A, b = well_conditioned(), np.arange(1.0, N + 1)
    got = solve(A, b, max_iterations=50, guards="paper")
    assert relative(got.x, np.linalg.solve(A, b)) < 1e-6
    assert reason(got) == "converged"
    for size, iterations in ((0.9e-6, 0), (1.1e-6, 1)):
        got = solve(A, size * b / np.linalg.norm(b), max_iterations=1, guards="paper")
        assert int(got.iterations) == iterations


def test_negative_curvature_stops_with_what_there_is():
    b = np.array([1.0, 0, 0])
    got = solve(-np.eye(3), b)
    assert reason(got) == "negative curvature"
    np.testing.assert_array_equal(got.x, np.zeros(3))
    np.testing.assert_array_equal(got.residual, b)
    # The first direction curves upwards, the second downwards.
    A = np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]])
    got = solve(A, b)
    assert reason(got) == "negative curvature"
    np.testing.assert_allclose(got.x, b)
    np.testing.assert_allclose(got.residual, b - A @ b)


@pytest.mark.parametrize("guards", ["relative", "paper"])
def test_zero_right_hand_side_and_exact_start(guards):
    A, b = well_conditioned(), np.arange(1.0, N + 1)
    got = solve(A, np.zeros(N), guards=guards)
    assert not np.any(got.x)
    assert (int(got.iterations), reason(got)) == (0, "converged")
    exact = np.linalg.solve(A, b)
    got = solve(A, b, x0=exact, tolerance=1e-12, guards=guards)
    np.testing.assert_allclose(got.x, exact, rtol=1e-15)
    assert (int(got.iterations), reason(got)) == (0, "converged")
    # From a start away from it, a zero right-hand side leads back to zero.
    got = solve(A, np.zeros(N), x0=b, max_iterations=N, guards=guards)
    assert np.max(np.abs(got.x)) < 1e-5


def test_a_start_nearby_saves_iterations():
    A, b = well_conditioned(), np.arange(1.0, N + 1)
    exact = np.linalg.solve(A, b)
    cold = solve(A, b, max_iterations=2)
    warm = solve(A, b, x0=exact + 1e-3, max_iterations=2)
    assert relative(warm.x, exact) < 0.1 * relative(cold.x, exact)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_not_finite(number):
    got = solve(np.eye(2), np.array([number, 1]))
    assert (int(got.iterations), reason(got)) == (0, "not finite")
    got = solve(np.eye(2), np.ones(2), x0=np.array([number, 1]))
    assert (int(got.iterations), reason(got)) == (0, "not finite")
    got = solve(np.full((2, 2), number), np.ones(2))
    assert (int(got.iterations), reason(got)) == (1, "not finite")
    np.testing.assert_array_equal(got.x, np.zeros(2))


def test_structures_and_functions_as_preconditioner():
    A, b = well_conditioned(), np.arange(1.0, N + 1)
    diagonal = np.linspace(1, 2, N)
    whole = solve(A, b, preconditioner=diagonal, max_iterations=3)

    def split(v):
        return {"a": v[:2], "b": (tf.reshape(v[2:], [2, 2]),)}

    def join(s):
        return tf.concat([s["a"], tf.reshape(s["b"][0], [-1])], 0)

    for preconditioner in (
        split(tf.constant(diagonal)),
        lambda r: split(join(r) * tf.constant(diagonal)),
    ):
        got = mlhf.conjugate_gradient(
            lambda s: split(tf.linalg.matvec(tf.constant(A), join(s))),
            split(tf.constant(b)),
            preconditioner=preconditioner,
            x0=split(tf.zeros(N, tf.float64)),
            max_iterations=3,
        )
        np.testing.assert_allclose(join(got.x), whole.x, rtol=1e-13)
        np.testing.assert_allclose(join(got.residual), whole.residual, atol=1e-13)


def test_in_a_graph():
    A, b = well_conditioned(), np.arange(1.0, N + 1)

    @tf.function(autograph=False)
    def solve_in_graph(b):
        return mlhf.conjugate_gradient(lambda v: tf.linalg.matvec(tf.constant(A), v), b)

    np.testing.assert_allclose(solve_in_graph(tf.constant(b)).x, solve(A, b).x, rtol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"max_iterations": 0}, "max_iterations"),
        ({"max_iterations": 2.5}, "max_iterations"),
        ({"max_iterations": True}, "max_iterations"),
        ({"tolerance": -1e-3}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"guards": "absolute"}, "guards"),
    ],
)
def test_bad_arguments(arguments, named):
    with pytest.raises(ValueError, match=f"Expected .*{named}.*got"):
        solve(np.eye(2), np.ones(2), **arguments)


# Iterations asked for, the size of the right-hand side, and how many of them run: all; few, since
# the third is exact; all, with ρ and <p, A p> under the paper's floors; none.
TRAJECTORIES = [(1, 1.0, 1), (2, 1.0, 2), (5, 1.0, 3), (4, 1e-4, 4), (2, 1e-8, 0)]


@pytest.mark.parametrize(("iterations", "size", "used"), TRAJECTORIES)
@pytest.mark.parametrize("unrolled", [False, True], ids=["loop", "unrolled"])
def test_derivative_of_a_solution(iterations, size, used, unrolled):
    random = np.random.default_rng(4)
    # A scaled identity but for two coordinates has three eigenvalues, unless δ and P spread them.
    G = np.diag([1.0, 1, 1, 1, 2, 4])
    spread = 0.0 if used == 3 else 1.0
    delta = 0.3 + spread * random.uniform(size=N)
    P = 0.7 + spread * random.uniform(size=N)
    r0, x0 = size * random.normal(size=N), random.normal(size=N)
    d_x = random.normal(size=N)

    def in_numpy(P, delta, r0, x0):
        return reference.conjugate_gradient(lambda v: v @ G + delta * v, r0, x0, P, iterations)

    def matvec(v):
        return tf.linalg.matvec(tf.constant(G), v) + delta * v

    arrays = P, delta, r0, x0
    x, r, count = in_numpy(*arrays)
    got, trajectory = recorded_cg.solve_recorded(
        matvec, tf.constant(r0), tf.constant(x0), tf.constant(P), iterations, unrolled
    )
    assert count == int(trajectory.iterations) == used
    np.testing.assert_allclose(got, x, rtol=1e-12)
    np.testing.assert_allclose(trajectory.residual, r, rtol=1e-9, atol=1e-13)
    found = recorded_cg.solution_vjp(matvec, tf.constant(P), trajectory, tf.constant(d_x), unrolled)
    for i, gradient in enumerate((*found, d_x)):
        moved = [value + np.zeros((N, 1)) for value in arrays]
        moved[i] = arrays[i] + 1e-40j * np.eye(N)
        right = in_numpy(*moved)[0].imag @ d_x / 1e-40
        scale = max(np.max(np.abs(right)), 1e-12)
        np.testing.assert_allclose(gradient, right, atol=1e-9 * scale)
