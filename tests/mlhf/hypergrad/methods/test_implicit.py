"""Implicit hypergradients against ridge regression in closed form and against long training."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad
from mlhf.hypergrad import linear_solvers

RANDOM = np.random.default_rng(0)
N, P = 12, 5
X, Y = RANDOM.normal(size=(N, P)), RANDOM.normal(size=N)
X_VALID, Y_VALID = RANDOM.normal(size=(N, P)), RANDOM.normal(size=N)
LOG_L2 = np.linspace(-2.0, 0.0, P)
HYPER = {"log_l2": tf.constant(LOG_L2), "targets": tf.constant(Y)}


def train_loss(weights, hyper, step):
    del step
    error = tf.linalg.matvec(tf.constant(X), weights["w"]) - hyper["targets"]
    penalty = tf.reduce_sum(tf.exp(hyper["log_l2"]) * weights["w"] ** 2)
    return 0.5 * tf.reduce_mean(error**2) + penalty


def valid_loss(weights, hyper):
    error = tf.linalg.matvec(tf.constant(X_VALID), weights["w"]) - tf.constant(Y_VALID)
    return 0.5 * tf.reduce_mean(error**2) + 0.1 * tf.reduce_sum(hyper["log_l2"] ** 2)


def ridge(log_l2=LOG_L2, y=Y):
    """The optimum, and the outer loss there."""
    hessian = X.T @ X / N + 2 * np.diag(np.exp(log_l2))
    w = np.linalg.solve(hessian, X.T @ y / N)
    loss = 0.5 * np.mean((X_VALID @ w - Y_VALID) ** 2) + 0.1 * np.sum(log_l2**2)
    return w, hessian, loss


def closed_form():
    """The hypergradient of ridge regression, by hand."""
    w, hessian, _ = ridge()
    q = np.linalg.solve(hessian, X_VALID.T @ (X_VALID @ w - Y_VALID) / N)
    return {"log_l2": -2 * np.exp(LOG_L2) * w * q + 0.2 * LOG_L2, "targets": X @ q / N}


def problem(train=train_loss, valid=valid_loss, steps=1, dynamics=None, **options):
    dynamics = dynamics or hypergrad.GradientDescent(0.2)
    return hypergrad.Problem(train, valid, dynamics=dynamics, steps=steps, **options)


def optimum():
    return {"w": tf.constant(ridge()[0])}


EXACT = {
    "conjugate gradient": linear_solvers.ConjugateGradient(tolerance=1e-12),
    "normal equations": linear_solvers.NormalEquations(tolerance=1e-13),
    "neumann": linear_solvers.Neumann(terms=200),
    "fixed point": linear_solvers.FixedPoint(max_iterations=200, tolerance=1e-12),
    "nystrom": linear_solvers.Nystrom(rank=P, rho=1e-7),
    "gauss-newton": linear_solvers.GaussNewton(
        lambda weights, hyper, step: (
            tf.linalg.matvec(tf.constant(X), weights["w"])[:, None],
            hyper["targets"][:, None],
        ),
        loss="squared_error",
        damping=0.0,
        regularizer=lambda weights, hyper: tf.reduce_sum(
            tf.exp(hyper["log_l2"]) * weights["w"] ** 2
        ),
        tolerance=1e-12,
    ),
}


def test_the_closed_form_itself_against_finite_differences():
    eps, right = 1e-6, closed_form()
    for i in range(P):
        e = eps * np.eye(P)[i]
        by_difference = (ridge(LOG_L2 + e)[2] - ridge(LOG_L2 - e)[2]) / (2 * eps)
        assert right["log_l2"][i] == pytest.approx(by_difference, rel=1e-6)
    e = eps * np.eye(N)[3]
    by_difference = (ridge(y=Y + e)[2] - ridge(y=Y - e)[2]) / (2 * eps)
    assert right["targets"][3] == pytest.approx(by_difference, rel=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_every_solver_gives_the_closed_form(name):
    got = hypergrad.implicit(problem(), optimum(), HYPER, solver=EXACT[name], train_first=False)
    for hyper, right in closed_form().items():
        atol = (1e-6 if name == "nystrom" else 1e-9) * np.abs(right).max()
        np.testing.assert_allclose(got.hypergradient[hyper], right, atol=atol, err_msg=hyper)
    np.testing.assert_allclose(got.valid_loss, ridge()[2], rtol=1e-12)
    assert got.info["residual"] < 1e-6 and got.info["gradient_norm"] < 1e-14
    assert got.info["first_gradient_norm"] is None
    w, hessian, _ = ridge()
    q = np.linalg.solve(hessian, X_VALID.T @ (X_VALID @ w - Y_VALID) / N)
    np.testing.assert_allclose(got.info["solution"]["w"], q, rtol=1e-5)


def test_trains_first_and_tends_to_the_closed_form():
    start = {"w": tf.zeros([P], tf.float64)}
    errors = []
    for steps in (3, 30, 300):
        got = hypergrad.implicit(problem(steps=steps), start, HYPER)
        trained = hypergrad.train(problem(steps=steps), start, HYPER)
        np.testing.assert_array_equal(got.weights["w"], trained.weights["w"])
        right = closed_form()["log_l2"]
        errors.append(np.abs(got.hypergradient["log_l2"] - right).max())
        assert got.info["gradient_norm"] < got.info["first_gradient_norm"]
    assert errors[0] > 2 * errors[1] > 0 and errors[2] < 1e-9


def network_problem(steps, train=None):
    """A network of two layers with a penalty that makes its optimum a strict one."""

    def network(weights, inputs):
        return tf.squeeze(tf.tanh(inputs @ weights["in"]) @ weights["out"], -1)

    def loss(weights, hyper, step):
        del step
        error = network(weights, tf.constant(X)) - tf.constant(Y)
        squares = tf.add_n([tf.reduce_sum(leaf**2) for leaf in tf.nest.flatten(weights)])
        return tf.reduce_mean(error**2) + tf.exp(hyper["log_l2"]) * squares

    def valid(weights, hyper):
        del hyper
        return tf.reduce_mean((network(weights, tf.constant(X_VALID)) - tf.constant(Y_VALID)) ** 2)

    random = np.random.default_rng(1)
    weights = {
        "in": tf.constant(random.normal(size=(P, 3))),
        "out": tf.constant(random.normal(size=(3, 1))),
    }
    dynamics = hypergrad.Momentum(0.1, 0.8)
    outputs = lambda w, h, step: (network(w, tf.constant(X))[:, None], tf.constant(Y)[:, None])  # noqa: E731
    return problem(loss, valid, steps, dynamics), weights, outputs


HYPER_NETWORK = {"log_l2": tf.constant(-2.5, tf.float64)}


def test_agrees_with_reverse_through_a_long_training():
    trained_long, weights, _ = network_problem(2000)
    got = hypergrad.implicit(trained_long, weights, HYPER_NETWORK)
    right = hypergrad.reverse(trained_long, weights, HYPER_NETWORK)
    assert got.info["gradient_norm"] < 1e-9 * got.info["first_gradient_norm"]
    assert abs(float(right.hypergradient["log_l2"])) > 1e-3
    np.testing.assert_allclose(
        got.hypergradient["log_l2"], right.hypergradient["log_l2"], rtol=1e-5
    )


def test_a_network_in_the_middle_of_training_needs_gauss_newton():
    short, weights, outputs = network_problem(2)
    with pytest.raises(linear_solvers.LinearSolveError, match="Gauss-Newton"):
        hypergrad.implicit(short, weights, HYPER_NETWORK)
    solver = linear_solvers.GaussNewton(outputs, "mean_squared_error", damping=0.1)
    got = hypergrad.implicit(short, weights, HYPER_NETWORK, solver=solver)
    assert np.isfinite(got.hypergradient["log_l2"]) and got.info["residual"] < 1e-5
    assert got.info["reason"] == "converged"
    # With the matrix built densely.
    w = got.weights
    shapes = {name: leaf.shape for name, leaf in w.items()}
    with tf.GradientTape() as tape:
        tape.watch(w)
        z = outputs(w, HYPER_NETWORK, 0)[0][:, 0]
    jacobian = tape.jacobian(z, w)
    J = np.concatenate([jacobian[name].numpy().reshape(N, -1) for name in sorted(shapes)], 1)
    matrix = 2 / N * J.T @ J + 0.1 * np.eye(J.shape[1])
    with tf.GradientTape() as tape:
        tape.watch(w)
        valid = short.outer_losses["valid_loss"](w, HYPER_NETWORK)
    slope = tape.gradient(valid, w)
    flat = lambda tree: np.concatenate([tree[name].numpy().ravel() for name in sorted(shapes)])  # noqa: E731
    q = np.linalg.solve(matrix, flat(slope))
    right = -2 * np.exp(-2.5) * flat(w) @ q
    np.testing.assert_allclose(got.hypergradient["log_l2"], right, rtol=1e-4)


def test_batches_are_averaged():
    def loss(weights, hyper, step, batch):
        x, y = batch
        del step
        error = tf.linalg.matvec(x, weights["w"]) - y
        penalty = tf.reduce_sum(tf.exp(hyper["log_l2"]) * weights["w"] ** 2)
        return 0.5 * tf.reduce_mean(error**2) + penalty

    hyper = {"log_l2": HYPER["log_l2"]}
    batches = hypergrad.Minibatches((X, Y), 4, steps=3, shuffle=False)
    parts = problem(loss, steps=3, batches=batches)
    got = hypergrad.implicit(parts, optimum(), hyper, train_first=False)
    np.testing.assert_allclose(got.hypergradient["log_l2"], closed_form()["log_l2"], rtol=1e-6)
    # The Gauss-Newton matrix of a linear network is the Hessian, batch by batch.
    solver = linear_solvers.GaussNewton(
        lambda weights, hyper, step, batch: (
            tf.linalg.matvec(batch[0], weights["w"])[:, None],
            batch[1][:, None],
        ),
        loss="squared_error",
        damping=0.0,
        regularizer=EXACT["gauss-newton"]._regularizer,
    )
    linear = hypergrad.implicit(parts, optimum(), hyper, solver=solver, train_first=False)
    np.testing.assert_allclose(
        linear.hypergradient["log_l2"], got.hypergradient["log_l2"], rtol=1e-5
    )
    one = hypergrad.implicit(parts, optimum(), hyper, train_first=False, loss_steps=1)
    assert np.abs(one.hypergradient["log_l2"] - closed_form()["log_l2"]).max() > 1e-3
    with pytest.raises(ValueError, match="at most the 3 steps"):
        hypergrad.implicit(parts, optimum(), hyper, loss_steps=4)


def test_several_outer_losses_and_a_warm_start():
    losses = {"a": valid_loss, "b": lambda weights, hyper: tf.reduce_sum(weights["w"] ** 2)}
    both = problem(valid=losses)
    got = hypergrad.implicit(both, optimum(), HYPER, train_first=False)
    w, hessian, _ = ridge()
    more = X @ np.linalg.solve(hessian, 2 * w) / N
    np.testing.assert_allclose(
        got.hypergradient["targets"], closed_form()["targets"] + more, rtol=1e-6
    )
    assert set(got.info["residual"]) == {"a", "b"} and got.info["iterations"]["a"] > 2
    again = hypergrad.implicit(
        both, optimum(), HYPER, train_first=False, start=got.info["solution"]
    )
    assert again.info["iterations"] == {"a": 0, "b": 0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.1),
        ("initial_weights", {"w": np.ones(P)}),
    ],
)
def test_refuses_what_vanishes_at_the_optimum(name, value):
    value = tf.nest.map_structure(lambda leaf: tf.constant(leaf, tf.float64), value)
    with pytest.raises(ValueError, match=f"{name}.*is zero.*reversible or forward"):
        hypergrad.implicit(problem(), optimum(), HYPER | {name: value})


def test_refuses_schedules():
    scheduled = problem(
        lambda w, h, step: train_loss(w, h | {"targets": Y}, step), steps=2, schedules=["log_l2"]
    )
    hyper = {"log_l2": tf.zeros([2, P], tf.float64)}
    with pytest.raises(ValueError, match="schedules.*log_l2"):
        hypergrad.implicit(scheduled, optimum(), hyper)


def test_refuses_a_training_that_diverged():
    wild = problem(steps=2000, dynamics=hypergrad.GradientDescent(1e3))
    with pytest.raises(hypergrad.DivergedError):
        hypergrad.implicit(wild, optimum(), HYPER)
    with pytest.raises((hypergrad.DivergedError, linear_solvers.LinearSolveError)):
        hypergrad.implicit(
            problem(), {"w": tf.constant(np.full(P, np.inf))}, HYPER, train_first=False
        )
    with pytest.raises(TypeError, match="solver= of"):
        hypergrad.implicit(problem(), optimum(), HYPER, solver="cg")


def underdetermined(dtype):
    """Four equations for eight weights: H is singular, and the outer loss sees all weights."""
    random = np.random.default_rng(3)
    x, y = random.normal(size=(4, 8)), random.normal(size=4)
    x_valid = random.normal(size=(6, 8))

    def train(weights, hyper, step):
        error = tf.linalg.matvec(tf.constant(x, dtype), weights["w"]) - hyper["targets"]
        return 0.5 * tf.reduce_mean(error**2)

    def valid(weights, hyper):
        return tf.reduce_mean(tf.linalg.matvec(tf.constant(x_valid, dtype), weights["w"]) ** 2)

    w = np.linalg.pinv(x) @ y
    q = np.linalg.pinv(x.T @ x / 4) @ (2 / 6 * x_valid.T @ (x_valid @ w))
    start = {"w": tf.constant(w, dtype)}
    return problem(train, valid), start, {"targets": tf.constant(y, dtype)}, x @ q / 4


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64], ids=["float32", "float64"])
def test_a_singular_hessian_has_no_inverse(dtype):
    singular, start, hyper, right = underdetermined(dtype)

    def solve(solver, **options):
        options = {"solver": solver, "train_first": False, **options}
        return hypergrad.implicit(singular, start, hyper, **options)

    for solver in (
        linear_solvers.ConjugateGradient(),
        linear_solvers.ConjugateGradient(tolerance=0.0),
        linear_solvers.ConjugateGradient(8),
        linear_solvers.FixedPoint(),
        linear_solvers.Nystrom(8, 1e-7 if dtype == tf.float32 else 1e-15),
    ):
        with pytest.raises(linear_solvers.LinearSolveError):
            solve(solver)
    got = solve(linear_solvers.NormalEquations())
    np.testing.assert_allclose(got.hypergradient["targets"], right, rtol=1e-4)
    assert got.info["converged"] and got.info["residual"] > 0.1
    # A few terms are a choice, and said to be no solution.
    got = solve(linear_solvers.Neumann(20))
    assert not got.info["converged"] and 0.1 < got.info["residual"] < 1
    damped = solve(linear_solvers.ConjugateGradient(damping=0.1))
    assert damped.info["converged"]


def test_few_iterations_have_to_be_meant():
    def solve(solver, **options):
        return hypergrad.implicit(
            problem(), optimum(), HYPER, solver=solver, train_first=False, **options
        )

    for make in (linear_solvers.ConjugateGradient, linear_solvers.FixedPoint):
        with pytest.raises(linear_solvers.LinearSolveError, match="at most 0.1.*largest_residual"):
            solve(make(1))
        for got in (solve(make(1), largest_residual=1.0), solve(make(1, tolerance=0.0))):
            assert got.info["reason"] == "maximum of iterations" and not got.info["converged"]
    with pytest.raises(linear_solvers.LinearSolveError, match="NormalEquations to leave"):
        solve(linear_solvers.NormalEquations(1))
    # A series of which nothing is left is no solution either.
    with pytest.raises(linear_solvers.LinearSolveError, match="Nystrom to leave at most 1"):
        solve(linear_solvers.Nystrom(1, 1e-3))


def test_a_training_that_gets_away_from_its_optimum():
    start = {"w": tf.zeros([P], tf.float64)}
    hessian = ridge()[1]
    rate = 2.6 / np.linalg.eigvalsh(hessian)[-1]
    wild = problem(steps=30, dynamics=hypergrad.GradientDescent(rate))
    with pytest.raises(hypergrad.DivergedError, match="gradient grew from.*no optimum"):
        hypergrad.implicit(wild, start, HYPER)
    flags = []
    for steps in (3, 300):
        info = hypergrad.implicit(problem(steps=steps), start, HYPER).info
        flags.append(info["converged"])
        ratio = info["gradient_norm"] / info["first_gradient_norm"]
        np.testing.assert_allclose(info["relative_gradient"], ratio)
    assert flags == [False, True]
    # Where training begins at an optimum no ratio says anything.
    there = hypergrad.implicit(problem(steps=3), optimum(), HYPER)
    assert there.info["converged"] and there.info["gradient_norm"] < 1e-14
    away = hypergrad.implicit(problem(), start, HYPER, train_first=False)
    assert not away.info["converged"]
    # An outer loss at its minimum: a right-hand side of zero.
    w = tf.constant(ridge()[0])
    least = problem(valid=lambda weights, hyper: tf.reduce_sum((weights["w"] - w) ** 2))
    found = hypergrad.implicit(least, optimum(), HYPER, train_first=False)
    assert not np.any(found.hypergradient["targets"]) and found.info["converged"]


def test_a_loss_that_is_flat_at_its_optimum_has_not_converged():
    problem = hypergrad.Problem(
        lambda w, h, step: (1 + h["a"]) * tf.reduce_sum(w["w"] ** 4),
        lambda w, h: tf.reduce_sum((w["w"] - 1) ** 2),
        dynamics=hypergrad.GradientDescent(0.1),
        steps=300,
    )
    found = hypergrad.implicit(
        problem, {"w": tf.ones([3], tf.float64)}, {"a": tf.constant(0.5, tf.float64)}
    )
    assert found.info["relative_gradient"] < 1e-3  # of its start, which says little here
    assert not found.info["converged"]
