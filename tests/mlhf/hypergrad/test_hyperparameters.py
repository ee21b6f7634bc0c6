"""Shapes of hyperparameters, and those that nothing depends on."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad as hg
from mlhf.hypergrad.binding import bind
from tests.mlhf.hypergrad.small_problem import WEIGHTS, D, make, quadratic


def test_shapes_of_the_dynamics_hyperparameters():
    weights = {"a": tf.ones([2], D), "b": tf.ones([3], D)}

    def loss(w, h, step):
        return tf.reduce_sum(w["a"] ** 2) + tf.reduce_sum(w["b"] ** 2)

    def outer(w, h):
        return tf.reduce_sum(w["a"]) + 3 * tf.reduce_sum(w["b"])

    problem = make(loss, outer, steps=4)

    def rates(value):
        training, _, hyper = bind(problem, weights, {"learning_rate": value})
        rows = training.resolver.rows(hyper, 2)
        return np.array(training.resolver.dynamics_values(rows)["learning_rate"])

    by_step = np.array([0.1, 0.2, 0.3, 0.4])
    both = np.arange(8.0).reshape(4, 2) / 10
    per_weight = {"a": np.array([0.1, 0.2]), "b": np.array([0.3, 0.4, 0.5])}
    stacked = {name: value * by_step[:, None] for name, value in per_weight.items()}
    assert rates(0.1) == 0.1 and rates(by_step) == 0.3 and rates(by_step[:, None]) == 0.3
    for value in (np.array([0.1, 0.2]), np.array([[0.1, 0.2]]), {"a": 0.1, "b": 0.2}):
        np.testing.assert_array_equal(rates(value), [0.1, 0.1, 0.2, 0.2, 0.2])
    np.testing.assert_array_equal(rates(both), [0.4, 0.4, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(rates(per_weight), [0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(rates(stacked), 0.3 * np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    # w_T = Π (1 - 2 η_t) for each weight.
    found = hg.reverse(problem, weights, {"learning_rate": stacked}).hypergradient["learning_rate"]
    factors = 1 - 2 * stacked["b"]
    expected = -2 * 3 * np.prod(factors, 0) / factors
    np.testing.assert_allclose(found["b"], expected, rtol=1e-12)

    with pytest.raises(ValueError, match="shape .*3"):
        rates(np.ones(3))
    with pytest.raises(ValueError, match="a structure like the weights"):
        rates({"a": 0.1})
    two = make(loss, outer, steps=2)
    with pytest.raises(ValueError, match=r"tell steps from groups.*\[2, 1\].*\[1, 2\]"):
        bind(two, weights, {"learning_rate": np.array([0.1, 0.2])})
    one_group = make(loss, outer, groups={"a": "all", "b": "all"}, steps=4)
    assert bind(one_group, weights, {"learning_rate": by_step})[0].flat.groups == ["all"]


def test_detached_hyperparameters_are_named():
    hyper = {"l2": 0.1, "typo": 0.3}
    for method in (hg.reverse, hg.forward, hg.train, hg.truncated):
        with pytest.raises(ValueError, match="'typo' has no influence"):
            method(make(), WEIGHTS, hyper)
    # A term that does not change the gradient, and a copy that no gradient passes.
    constant = make(lambda w, h, step: quadratic(w, h, step) + h["typo"])
    stopped = make(lambda w, h, step: tf.stop_gradient(h["typo"]) * quadratic(w, h, step))
    for problem in (constant, stopped):
        with pytest.raises(ValueError, match="'typo' has no influence"):
            hg.reverse(problem, WEIGHTS, hyper)
    nested = {"l2": {"used": 0.1, "loose": 0.2}}
    with pytest.raises(ValueError, match="'l2/loose' has no influence"):
        hg.reverse(
            make(lambda w, h, step: tf.reduce_sum(h["l2"]["used"] * w["w"] ** 2)), WEIGHTS, nested
        )
