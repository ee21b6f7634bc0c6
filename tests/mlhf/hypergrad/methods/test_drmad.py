"""DrMAD against its algorithm in NumPy, and what it is worth."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad
from mlhf.hypergrad.methods.drmad import DrmadDivergedWarning

RANDOM = np.random.default_rng(0)
N, P, STEPS = 12, 5, 40
X, Y = RANDOM.normal(size=(N, P)), RANDOM.normal(size=N)
X_VALID, Y_VALID = RANDOM.normal(size=(N, P)), RANDOM.normal(size=N)
START, LOG_L2 = RANDOM.normal(size=P), np.linspace(-3.0, -1.0, P)
RATE, DECAY = 0.3, 0.8


def rows_of(step):
    return (np.arange(4) + 3 * step) % N


def train_loss(weights, hyper, step):
    """½ mean of squares to the fourth power somewhere: the Hessian depends on the weights."""
    rows = tf.math.floormod(tf.range(4) + 3 * step, N)
    error = tf.linalg.matvec(tf.gather(tf.constant(X), rows), weights["w"])
    error = error - tf.gather(tf.constant(Y), rows)
    penalty = tf.reduce_sum(tf.exp(hyper["log_l2"]["w"]) * weights["w"] ** 4)
    return 0.5 * tf.reduce_mean(error**2) + penalty


def valid_loss(weights, hyper):
    error = tf.linalg.matvec(tf.constant(X_VALID), weights["w"]) - tf.constant(Y_VALID)
    return 0.5 * tf.reduce_mean(error**2) + 0.1 * tf.reduce_sum(hyper["log_l2"]["w"])


def gradient(w, step):
    x, y = X[rows_of(step)], Y[rows_of(step)]
    return x.T @ (x @ w - y) / 4 + 4 * np.exp(LOG_L2) * w**3


def hessian(w, step):
    x = X[rows_of(step)]
    return x.T @ x / 4 + np.diag(12 * np.exp(LOG_L2) * w**2)


def algorithm(betas, steps):
    """The authors' reverse pass for M1, transcribed: hypergradients, and ‖dw‖ by point."""
    w, v = START, np.zeros(P)
    for step in range(STEPS):
        v = DECAY * v - (1 - DECAY) * gradient(w, step)
        w = w + RATE * v
    dw, dv = X_VALID.T @ (X_VALID @ w - Y_VALID) / N, np.zeros(P)
    d_l2, d_rate, d_decay, norms = np.full(P, 0.1), 0.0, 0.0, [np.linalg.norm(dw)]
    velocity = (w - START) / STEPS / RATE
    for beta, step in reversed(list(zip(betas, steps, strict=True))):
        at = (1 - beta) * START + beta * w
        d_rate += dw @ velocity
        dv = dv + RATE * dw
        d_decay += dv @ (velocity + gradient(at, step))
        dw = dw - (1 - DECAY) * hessian(at, step) @ dv
        d_l2 = d_l2 - (1 - DECAY) * 4 * np.exp(LOG_L2) * at**3 * dv
        dv = DECAY * dv
        norms.append(np.linalg.norm(dw))
    found = {"log_l2": d_l2, "learning_rate": d_rate, "momentum": d_decay, "first": dw}
    return found, norms[::-1]


def problem(dynamics=None, steps=STEPS, train=train_loss, valid=valid_loss):
    dynamics = dynamics or hypergrad.Momentum(RATE, DECAY, form="M1")
    return hypergrad.Problem(train, valid, dynamics=dynamics, steps=steps)


WEIGHTS = {"w": tf.constant(START)}
HYPER = {
    "log_l2": {"w": tf.constant(LOG_L2)},
    "learning_rate": tf.constant(RATE, tf.float64),
    "momentum": tf.constant(DECAY, tf.float64),
    "initial_weights": WEIGHTS,
}
ONLY_L2 = {"log_l2": HYPER["log_l2"]}

OPTIONS = {
    "as the authors": ({}, np.linspace(0.001, 0.999, 4), range(4)),
    "strided": ({"batches": "strided", "points": 5}, np.linspace(0.001, 0.999, 5), range(0, 40, 8)),
    "the paper's line": ({"betas": "paper", "points": 8}, np.arange(8) / 8, range(8)),
    "a line of one's own": (
        {"betas": [0.5, 0.9, 1.0], "points": 3, "batches": [7, 3, 39]},
        [0.5, 0.9, 1.0],
        [7, 3, 39],
    ),
    "all points": ({"points": STEPS}, np.linspace(0.001, 0.999, STEPS), range(STEPS)),
    "a function": ({"betas": lambda n: np.ones(n), "points": 2}, [1, 1], [0, 1]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_is_its_algorithm(name):
    options, betas, steps = OPTIONS[name]
    got = hypergrad.drmad(problem(), WEIGHTS, HYPER, **options)
    right, norms = algorithm(betas, steps)
    scale = np.abs(right["log_l2"] - 0.1).max()
    assert scale > 1e-3
    np.testing.assert_allclose(got.hypergradient["log_l2"]["w"], right["log_l2"], atol=1e-9)
    for hyper in ("learning_rate", "momentum"):
        np.testing.assert_allclose(got.hypergradient[hyper], right[hyper], rtol=1e-9)
    np.testing.assert_allclose(got.hypergradient["initial_weights"]["w"], right["first"], atol=1e-9)
    np.testing.assert_allclose(got.adjoint_norm["valid_loss"], norms, rtol=1e-9)
    assert got.info["steps"] == list(steps)
    np.testing.assert_allclose(got.info["betas"], betas)
    trained = hypergrad.train(problem(), WEIGHTS, HYPER)
    np.testing.assert_array_equal(got.weights["w"], trained.weights["w"])


def test_is_exact_where_the_path_is_the_line():
    """A constant gradient, no momentum: training is the straight line itself."""

    def loss(weights, hyper, step):
        del step
        return tf.reduce_sum(hyper["slope"] * weights["w"])

    def valid(weights, hyper):
        del hyper
        return tf.reduce_sum(weights["w"] ** 2)

    straight = problem(hypergrad.GradientDescent(0.1), 6, loss, valid)
    hyper = {
        "slope": tf.constant(np.linspace(1.0, 2.0, P)),
        "learning_rate": tf.constant(np.linspace(0.1, 0.4, 6)[:, None]),
    }
    got = hypergrad.drmad(straight, WEIGHTS, hyper, points=6)
    right = hypergrad.reverse(straight, WEIGHTS, hyper)
    np.testing.assert_allclose(got.hypergradient["slope"], right.hypergradient["slope"], rtol=1e-9)
    np.testing.assert_allclose(
        got.hypergradient["learning_rate"], right.hypergradient["learning_rate"], rtol=1e-9
    )


@pytest.mark.parametrize("form", ["M2", "M4"])
def test_other_forms_of_the_same_training(form):
    # With constants they are the same training: M1's step is the others' over 1 - μ.
    rate = RATE * (1 - DECAY)
    got = hypergrad.drmad(problem(hypergrad.Momentum(rate, DECAY, form=form)), WEIGHTS, ONLY_L2)
    right = hypergrad.drmad(problem(), WEIGHTS, ONLY_L2)
    np.testing.assert_allclose(
        got.hypergradient["log_l2"]["w"], right.hypergradient["log_l2"]["w"], rtol=1e-9
    )


def test_shares_and_signs():
    plain = hypergrad.drmad(problem(), WEIGHTS, HYPER)
    got = hypergrad.drmad(problem(), WEIGHTS, HYPER, share="layers", sign=True)
    mean = np.mean(plain.hypergradient["log_l2"]["w"])
    np.testing.assert_array_equal(got.hypergradient["log_l2"]["w"], np.full(P, np.sign(mean)))
    assert float(got.hypergradient["momentum"]) == float(plain.hypergradient["momentum"])


def saddle(weights, hyper, step):
    """Negative curvature at the start, a minimum at ±1."""
    del step
    w = weights["w"]
    return tf.reduce_sum(3 * (w**4 / 4 - w**2 / 2) + tf.exp(hyper["log_l2"]["w"]) * w**2)


def test_warns_where_the_line_runs_over_negative_curvature():
    start = {"w": tf.constant(0.01 * np.ones(P))}
    steep = problem(steps=200, train=saddle)
    with pytest.warns(DrmadDivergedWarning, match="fold along the line.*fewer points than 200"):
        got = hypergrad.drmad(steep, start, ONLY_L2, points=200)
    exact = hypergrad.reverse(steep, start, ONLY_L2)
    size = np.linalg.norm(exact.hypergradient["log_l2"]["w"] - 0.1)
    assert np.linalg.norm(got.hypergradient["log_l2"]["w"] - 0.1) > 1e3 * size
    assert got.info["adjoint_growth"] > 1e3
    with warnings.catch_warnings():
        warnings.simplefilter("error", DrmadDivergedWarning)
        few = hypergrad.drmad(steep, start, ONLY_L2, points=10)
    assert few.info["adjoint_growth"] < 100


def test_refuses_what_it_cannot_do():
    schedule = {"learning_rate": tf.fill([STEPS, 1], tf.constant(RATE, tf.float64))} | ONLY_L2
    with pytest.raises(ValueError, match="points=40.*learning_rate"):
        hypergrad.drmad(problem(), WEIGHTS, schedule)
    assert hypergrad.drmad(problem(), WEIGHTS, schedule, points=STEPS).per_step
    for options, complaint in [
        ({"points": 0}, "points"),
        ({"betas": "curved"}, "betas"),
        ({"betas": [0.5], "points": 2}, "2 finite betas"),
        ({"batches": "last"}, "batches"),
        ({"batches": [STEPS], "points": 1}, "from 0 to 39"),
        ({"share": "neurons"}, "share"),
        ({"sign": True}, "share= together"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            hypergrad.drmad(problem(), WEIGHTS, ONLY_L2, **options)
    for dynamics in (hypergrad.Adam(), hypergrad.Momentum(nesterov=True)):
        with pytest.raises(ValueError, match="Use `truncated`"):
            hypergrad.drmad(problem(dynamics), WEIGHTS, ONLY_L2)
    searching = hypergrad.GradientDescent(backtracking=True)
    with pytest.raises(ValueError, match="without backtracking.*backtracking=True.*Use `reverse`"):
        hypergrad.drmad(problem(searching), WEIGHTS, ONLY_L2)
