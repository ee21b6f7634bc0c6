"""Training: products with its second derivatives, and losses that it can't go on from."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad as hg
from mlhf.hypergrad.binding import bind
from tests.mlhf.hypergrad.small_problem import WEIGHTS, D, make


def as_flat(structure):
    return np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(structure)])


def test_products_with_the_hessian_of_a_network():
    rng = np.random.default_rng(0)
    weights = {
        "k1": tf.constant(rng.normal(size=[3, 4])),
        "b1": tf.constant(rng.normal(size=[4])),
        "k2": tf.constant(rng.normal(size=[4, 2])),
    }
    x = tf.constant(rng.normal(size=[5, 3]))
    y = tf.constant(rng.normal(size=[5, 2]))

    def loss(w, h, step):
        return tf.reduce_mean((tf.tanh(x @ w["k1"] + w["b1"]) @ w["k2"] - y) ** 2) * h["scale"]

    problem = make(loss, lambda w, h: tf.reduce_sum(w["k2"]))
    training, weights, hyper = bind(problem, weights, {"scale": tf.constant(1.5, D)})
    vector, seed = training.flat.flatten(weights), tf.constant(0)
    direction = rng.normal(size=vector.shape)

    def gradient(w, scale=1.5):
        rows = {"scale": tf.constant(scale, D)}
        return training.gradient(tf.constant(w), rows, tf.constant(0), seed)[1].numpy()

    columns = []
    for unit in np.eye(vector.shape[0]) * 1e-5:
        columns.append((gradient(vector + unit) - gradient(vector - unit)) / 2e-5)
    hessian = np.stack(columns, 1)
    assert np.abs(hessian[:12, 16:]).max() > 1e-2
    found = training.gradient_vjp(
        tf.constant(vector), tf.constant(direction), hyper, tf.constant(0), seed
    )
    np.testing.assert_allclose(found.in_weights, hessian @ direction, rtol=1e-7, atol=1e-8)
    mixed = (gradient(vector, 1.5 + 1e-5) - gradient(vector, 1.5 - 1e-5)) / 2e-5
    np.testing.assert_allclose(found.in_rows[0], mixed @ direction, rtol=1e-7)
    np.testing.assert_array_equal(found.gradient, gradient(vector))


def test_training_that_diverges_is_told():
    problem = make(lambda w, h, step: h["l2"] * tf.reduce_sum(w["w"] ** 4), steps=40)
    hyper = {"l2": 1.0, "learning_rate": 5.0}
    for method in (hg.train, hg.reverse, hg.forward):
        with pytest.raises(hg.DivergedError, match="not finite from step"):
            method(problem, WEIGHTS, hyper)
    # Finite, and of no use: a saddle that each step leaves by a factor of 3.
    saddle = make(lambda w, h, step: -h["l2"] * tf.reduce_sum(w["w"] ** 2) / 2, steps=20)
    hyper = {"l2": 1.0, "learning_rate": 2.0}
    with pytest.raises(hg.DivergedError, match="grew from"):
        hg.reverse(saddle, WEIGHTS, hyper)
    exact = hg.reverse(saddle, WEIGHTS, hyper, largest_growth=None)
    w = np.array([0.5, -1.0, 2.0])
    # w_T = 3^20 w, dw_T/dη = 20 · 3^19 w.
    expected = np.sum(2 * (3.0**20 * w - 1) * 20 * 3.0**19 * w)
    np.testing.assert_allclose(exact.hypergradient["learning_rate"], expected, rtol=1e-12)


def test_what_is_not_finite_is_told_apart():
    hyper = {"l2": 0.1}

    def bent(w, h, step):
        # The first weight stays at 0.5, where x ↦ (x - ½)^1.5 has a slope and no curvature.
        return h["l2"] * tf.reduce_sum(w["w"][1:] ** 2) + (w["w"][0] - 0.5) ** 1.5

    def distance(w, h):
        return tf.reduce_sum((w["w"] - 1) ** 2)

    options = {"dynamics": hg.Momentum(0.1), "steps": 3}
    whole = make(outer=distance, **options)
    bad_step = make(bent, distance, **options)
    bad_end = make(outer=lambda w, h: np.nan * distance(w, h), **options)
    with pytest.raises(ValueError, match="finite hyperparameters, got some of 'l2'"):
        hg.reverse(whole, WEIGHTS, {"l2": np.nan})
    for method in (hg.reverse, hg.reversible, hg.drmad):
        with pytest.raises(hg.DivergedError, match="at the last weights is not finite: the outer"):
            method(bad_end, WEIGHTS, hyper)
    for method in (hg.reverse, hg.reversible):
        with pytest.raises(hg.DivergedError, match="1 steps before the end: an operation"):
            method(bad_step, WEIGHTS, hyper)


def test_adam_where_a_gradient_is_zero():
    problem = make(
        lambda w, h, step: h["l2"] * tf.reduce_sum(w["w"][:2] ** 2), dynamics=hg.Adam(0.01)
    )
    result = hg.reverse(problem, WEIGHTS, {"l2": 0.1, "learning_rate": 0.01})
    assert np.isfinite(as_flat(result.hypergradient)).all()
    assert result.weights["w"][2] == 2.0
