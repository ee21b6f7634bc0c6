"""The update of the LSTMs' weights."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf.meta_training import adam, meta_step, rollout
from tests.mlhf.meta_training.small_runs import initialize, optimizer


@pytest.mark.parametrize("length", [1e-3, 1e3], ids=["short", "clipped"])
def test_update_of_the_weights(length, monkeypatch):
    random = np.random.default_rng(0)
    rule = optimizer()
    state = rule.init(initialize(0))
    layout = rule.layout(initialize(0))
    theta = rule.weights
    draw = [random.normal(size=value.shape) for value in tf.nest.flatten(theta)]
    scale = length / np.linalg.norm([np.linalg.norm(value) for value in draw])
    gradient = tf.nest.pack_sequence_as(theta, [tf.constant(scale * value) for value in draw])

    class Rows:
        def column(self, name):
            return tf.zeros([2], tf.float64)

    carry = rollout.Carry(layout.flatten(initialize(0)), (), state)
    found = rollout.MetaGradient(gradient, {})
    monkeypatch.setattr(rollout.Rollout, "run", lambda *_: (carry, Rows()))
    monkeypatch.setattr(rollout.Rollout, "gradient", lambda *_: found)
    moments = adam.init(theta)
    rate = tf.constant(0.01, tf.float64)
    got = meta_step.meta_step(
        rule, layout, None, False, theta, moments, carry, (), None, None, rate
    )
    flat = [np.concatenate([np.ravel(v) for v in tf.nest.flatten(s)]) for s in (theta, gradient)]
    w, g = flat[0], flat[1] + 2e-7 * flat[0]
    grad_length, var_length = np.linalg.norm(g), np.linalg.norm(w)
    g *= min(1, var_length / grad_length)
    assert (grad_length > var_length) == (length > 1)
    moved = w - 0.01 * g / (np.abs(g) + 1e-8)
    found = np.concatenate([np.ravel(value) for value in tf.nest.flatten(got.weights)])
    np.testing.assert_allclose(found, moved, rtol=1e-10)
    right = {
        "r_loss": 1e-7 * var_length**2,
        "var_length": var_length,
        "grad_length": grad_length,
        "grad_rate": grad_length / var_length,
        "learning_rate": 0.01,
    }
    for name, value in right.items():
        assert float(got.metrics[name]) == pytest.approx(value, rel=1e-12), name
