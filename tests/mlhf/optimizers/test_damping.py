"""The ratio that dampings are adapted by, which keeps them where there is nothing to gain."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.optimizers.damping import reduction_ratio


@pytest.mark.parametrize("dtype, tiny", [(np.float32, 1e-6), (np.float64, 1e-15)])
def test_the_ratio_is_measured_where_the_loss_can_tell(dtype, tiny):
    def ratio(before, after, predicted):
        return float(reduction_ratio(*(tf.constant(v, dtype) for v in (before, after, predicted))))

    assert ratio(2, 1.5, -1) == 0.5
    assert ratio(2, 1.9, -1) == pytest.approx(0.1)
    assert ratio(2, 3, -1) == -1
    assert ratio(2, np.inf, -1) == -np.inf
    # Neither a prediction of no fall, nor one within the loss's rounding.
    for predicted in (0, 1, -tiny):
        assert ratio(2, 2, predicted) == 0.5
    assert ratio(0, -tiny, -tiny) == 1


@pytest.mark.parametrize("make", [
    lambda: mlhf.MartensHessianFree(cg_iterations=10),
    lambda: mlhf.KFAC(damping_type="LM_heuristics", adapt_every=1),
])  # fmt: skip
def test_at_a_minimum_the_damping_stays_where_it_is_of_use(make):
    random = np.random.default_rng(0)
    x, y = (random.normal(size=(8, side)).astype("f") for side in (3, 2))
    optimizer, parameters = make(), {"w": tf.ones([3, 2])}
    state = optimizer.init(parameters)

    def linear(p, x):
        return x @ p["w"]

    def go(steps, targets):
        nonlocal parameters, state
        for _ in range(steps):
            batch = mlhf.Objective(linear, "squared_error", x, targets)
            parameters, state, _, metrics = optimizer.step(batch, parameters, state)
        return float(metrics["loss"])

    go(200, y)
    assert 1e-6 < float(state.damping) < 10
    # Another batch is learned from as if nothing had been.
    other = 10 + 5 * y
    solution = np.linalg.lstsq(x, other, rcond=None)[0]
    least = 0.5 * np.mean(np.sum((x @ solution - other) ** 2, 1))
    before = go(1, other)
    assert go(30, other) - least < 0.01 * (before - least)
