"""What counts as chaos: not the wild derivative of a weight at which nothing happens."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad as hg

D = tf.float64


def golden(steps=10, epsilon=1e-12):
    """The case G4 of FAR-HO's notebooks: v2[1, 1] is zero, and so is its gradient, always."""

    def train(w, h, step):
        return tf.reduce_mean(w["v1"] ** 2) + tf.reduce_sum(h["lam"] * w["v2"] ** 2)

    problem = hg.Problem(
        train,
        lambda w, h: tf.reduce_mean(w["v1"] * w["v2"]),
        dynamics=hg.Adam(0.01, 0.9, 0.999, epsilon_root=epsilon),
        steps=steps,
    )
    weights = {
        "v1": tf.constant([1.0, 3.0], D),
        "v2": tf.constant([[-1.0, -2.0], [1.0, 0.0]], D),
    }
    return problem, weights


def test_adam_at_a_gradient_that_is_always_zero():
    problem, weights = golden()
    hyper = {"learning_rate": tf.constant(0.01, D), "lam": tf.ones([2, 2], D)}
    for storage in ("memory", "checkpoints"):
        found = hg.reverse(problem, weights, hyper, storage=storage)
        np.testing.assert_allclose(found.hypergradient["learning_rate"], 11.965243776, rtol=1e-9)
        assert found.hypergradient["lam"][1, 1] == 0
    norms = found.adjoint_norm["valid_loss"]
    assert norms[0] > 1e20 * norms[-1]  # which used to be taken for chaos
    other = hg.forward(problem, weights, hyper).hypergradient
    np.testing.assert_allclose(found.hypergradient["lam"], other["lam"], atol=1e-14)
    window = hg.truncated(problem, weights, hyper, window=10).hypergradient
    np.testing.assert_allclose(window["learning_rate"], 11.965243776, rtol=1e-9)

    @tf.function
    def inside():
        return hg.reverse(problem, weights, hyper).hypergradient["learning_rate"]

    np.testing.assert_allclose(inside(), 11.965243776, rtol=1e-9)
    # The adjoint of the weight that stands still would leave float64.
    problem, weights = golden(100)
    found = hg.reverse(problem, weights, hyper).hypergradient
    other = hg.forward(problem, weights, hyper).hypergradient
    for name, value in other.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-14)
    assert np.isfinite(found["learning_rate"]) and found["learning_rate"] != 0


def test_where_a_hyperparameter_acts_on_it_the_derivative_is_wild():
    problem, weights = golden()
    with pytest.raises(hg.DivergedError, match="chaotic"):
        hg.reverse(problem, weights, {"initial_weights": weights, "lam": tf.ones([2, 2], D)})

    def pushed(w, h, step):
        return tf.reduce_sum(w["v"] ** 2) + h["push"] * w["v"][1]

    problem = hg.Problem(
        pushed,
        lambda w, h: tf.reduce_sum(w["v"]),
        dynamics=hg.Adam(0.01, epsilon_root=1e-12),
        steps=10,
    )
    weights = {"v": tf.constant([1.0, 0.0], D)}
    with pytest.raises(hg.DivergedError, match="chaotic"):
        hg.reverse(problem, weights, {"push": tf.constant(0.0, D)})


def test_weights_that_stand_still_under_momentum():
    """A curvature far beyond 2 / η, at exactly its minimum: the other weight alone counts."""

    def train(w, h, step):
        return h["l2"] * (w["v"][0] ** 2 + 1e4 * w["v"][1] ** 2 + w["v"][0] * w["v"][1] ** 2)

    problem = hg.Problem(
        train,
        lambda w, h: tf.reduce_sum((w["v"] - 0.3) ** 2),
        dynamics=hg.Momentum(0.1, 0.5),
        steps=60,
    )
    weights, hyper = {"v": tf.constant([1.0, 0.0], D)}, {"l2": tf.constant(0.4, D)}

    def end(l2):
        w, v = 1.0, 0.0
        for _ in range(60):
            v = 0.5 * v + 2 * l2 * w
            w -= 0.1 * v
        return (w - 0.3) ** 2

    right = (end(0.4 + 1e-6) - end(0.4 - 1e-6)) / 2e-6
    for method in (hg.reverse, hg.reversible):
        found = method(problem, weights, hyper).hypergradient["l2"]
        np.testing.assert_allclose(found, right, rtol=1e-6)


def test_a_weight_that_moves_is_still_judged():
    problem = hg.Problem(
        lambda w, h, step: 1e4 * h["l2"] * tf.reduce_sum(w["v"] ** 2) / 2,
        lambda w, h: tf.reduce_sum(w["v"]) * 1e-30,
        dynamics=hg.GradientDescent(0.1),
        steps=6,
    )
    weights = {"v": tf.constant([1e-10, 0.0], D)}
    with pytest.raises(hg.DivergedError, match="chaotic"):
        hg.reverse(problem, weights, {"l2": tf.constant(1.0, D)})


def test_sparse_features_that_come_late():
    """Adam with a penalty on weights whose feature no batch has seen yet."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=[12, 3])
    x[:8, 2] = 0

    def train(w, h, step):
        error = tf.reduce_sum(tf.gather(tf.constant(x), step) * w["w"]) - 1
        return error**2 + h["l2"] * tf.reduce_sum(w["w"] ** 2)

    problem = hg.Problem(
        train,
        lambda w, h: tf.reduce_sum((w["w"] - 1) ** 2),
        dynamics=hg.Adam(0.02, epsilon_root=1e-14),
        steps=12,
    )
    weights = {"w": tf.constant([0.3, -0.2, 0.0], D)}
    hyper = {"l2": tf.constant(0.05, D), "learning_rate": tf.constant(0.02, D)}
    found = hg.reverse(problem, weights, hyper)
    assert found.adjoint_norm["valid_loss"][0] > 1e6 * found.adjoint_norm["valid_loss"][-1]
    for name in hyper:
        ends = [
            hg.train(problem, weights, hyper | {name: hyper[name] + sign * 1e-7}).valid_loss
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(found.hypergradient[name], (ends[0] - ends[1]) / 2e-7, rtol=1e-5)
