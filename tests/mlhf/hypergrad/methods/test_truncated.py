"""Truncated and real-time hypergradients against NumPy's training."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad as hg
from tests.mlhf.hypergrad import numpy_training as reference
from tests.mlhf.hypergrad.methods.test_exact_methods import (
    FIRST,
    as_array,
    differences,
    outer_loss,
    structure,
    train_loss,
)

LAM, C, KAPPA = np.array([0.3, 0.6]), np.array(0.4), np.array(0.7)
START = {"learning_rate": 0.1, "lam": LAM, "c": C, "kappa": KAPPA}


@pytest.fixture(scope="module")
def problem():
    return hg.Problem(train_loss, outer_loss, dynamics=hg.GradientDescent(), steps=reference.STEPS)


def descend(w, rates, lam, first, last):
    """Weights after the steps first ... last - 1 of gradient descent."""
    for t in range(first, last):
        g = np.concatenate(reference.loss_gradient(w[:3].copy(), w[3:], lam, C, t))
        w = w - rates[t] * g
    return w


def test_only_the_window_is_differentiated(problem):
    window, steps = 2, reference.STEPS
    result = hg.truncated(problem, structure(FIRST), START, window=window)
    at = descend(FIRST, [0.1] * steps, LAM, 0, steps - window)

    def end(moved):
        w = descend(at, [moved["learning_rate"]] * steps, moved["lam"], steps - window, steps)
        return reference.outer(w[:3], w[3:], moved["kappa"])

    flat = {"learning_rate": np.array(0.1), "lam": LAM, "kappa": KAPPA}
    expected = differences(end, flat)
    for name in flat:
        np.testing.assert_allclose(result.hypergradient[name], expected[name], rtol=1e-6)
    np.testing.assert_array_equal(
        as_array(result.weights), as_array(hg.train(problem, structure(FIRST), START).weights)
    )
    assert result.train_loss.shape == (steps,)
    assert result.per_step["learning_rate"].shape == (window,)
    # As long as training it is exact.
    whole = hg.truncated(problem, structure(FIRST), START, window=100).hypergradient
    exact = hg.reverse(problem, structure(FIRST), START).hypergradient
    np.testing.assert_array_equal(as_array(whole), as_array(exact))


def test_what_truncation_makes_zero_is_refused(problem):
    weights = structure(FIRST)
    with pytest.raises(ValueError, match=r"initial_weights/a.*Use reverse, reversible or forward"):
        hg.truncated(problem, weights, {**START, "initial_weights": weights}, window=2)
    rates = np.full(reference.STEPS, 0.1)
    with pytest.raises(ValueError, match="learning_rate.*before it zero"):
        hg.truncated(problem, weights, {**START, "learning_rate": rates}, window=2)
    with pytest.raises(ValueError, match="window >= 1"):
        hg.truncated(problem, weights, START, window=0)
    with pytest.raises(ValueError, match=r"warm_restart=True.*Use forward or rtho"):
        hg.rtho(
            problem, weights, {**START, "initial_weights": weights}, update=0.1, warm_restart=True
        )


def test_online_goes_on_where_it_stands(problem):
    rate = {"learning_rate": 0.003, "lam": 0.01, "c": 0.0, "kappa": 0.0}
    result = hg.truncated(problem, structure(FIRST), START, window=2, update=rate)
    w, hyper = FIRST, {"learning_rate": np.array(0.1), "lam": LAM}
    for first in (0, 2, 4):

        def end(moved, w=w, first=first):
            last = descend(w, [moved["learning_rate"]] * 6, moved["lam"], first, first + 2)
            return reference.outer(last[:3], last[3:], KAPPA)

        gradient = differences(end, hyper)
        w = descend(w, [hyper["learning_rate"]] * 6, hyper["lam"], first, first + 2)
        hyper = {name: hyper[name] - rate[name] * gradient[name] for name in hyper}
    np.testing.assert_allclose(as_array(result.weights), w, rtol=1e-6)
    for name in hyper:
        np.testing.assert_allclose(result.hyperparameters[name], hyper[name], rtol=1e-6)
    assert len(result.info["moves"]) == 3


def test_real_time_moves_on_the_way_and_keeps_its_derivative(problem):
    steps = reference.STEPS
    still = hg.rtho(problem, structure(FIRST), START, update=0.0, every=2)
    forward = hg.forward(problem, structure(FIRST), START)
    np.testing.assert_allclose(
        as_array(still.hypergradient), as_array(forward.hypergradient), rtol=1e-12
    )
    np.testing.assert_array_equal(as_array(still.weights), as_array(forward.weights))

    moved = hg.rtho(
        problem,
        structure(FIRST),
        START,
        update=lambda hyper, gradient: {**hyper, "learning_rate": hyper["learning_rate"] * 0.9},
        every=2,
    )
    rates = np.repeat([0.1, 0.09, 0.081], 2)
    np.testing.assert_allclose(
        as_array(moved.weights), descend(FIRST, rates, LAM, 0, steps), rtol=1e-12
    )

    # Its derivative is that of adding one number to all rates of the steps so far.
    def end(shift):
        w = descend(FIRST, rates + shift["d"], LAM, 0, steps)
        return reference.outer(w[:3], w[3:], KAPPA)

    expected = differences(end, {"d": np.array(0.0)})["d"]
    np.testing.assert_allclose(moved.hypergradient["learning_rate"], expected, rtol=1e-6)

    warm = hg.rtho(
        problem, structure(FIRST), START, update=0.0, every=2, warm_restart=True
    ).hypergradient
    window = hg.truncated(problem, structure(FIRST), START, window=2).hypergradient
    np.testing.assert_allclose(as_array(warm), as_array(window), rtol=1e-12)


def test_an_update_that_changes_shapes_is_refused(problem):
    with pytest.raises(ValueError, match="names, shapes and dtypes"):
        hg.rtho(
            problem, structure(FIRST), START, update=lambda hyper, _: {**hyper, "c": tf.zeros([2])}
        )
    with pytest.raises(TypeError, match="update="):
        hg.rtho(problem, structure(FIRST), START, update="adam")
    with pytest.raises(ValueError, match="Expected rates for"):
        hg.rtho(problem, structure(FIRST), START, update={"c": 0.1})
