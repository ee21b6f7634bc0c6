"""K-FAC with weights of examples and masks: an example of weight 2 counts as two."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(4, 3)), np.array([0, 1, 1, 0])
PARAMETERS = {
    "dense": {"kernel": tf.constant(RANDOM.normal(size=(3, 2))), "bias": tf.zeros([2], tf.float64)}
}


def network(parameters, x):
    return tf.convert_to_tensor(x) @ parameters["dense"]["kernel"] + parameters["dense"]["bias"]


def steps(x, y, **counted):
    optimizer = mlhf.KFAC(damping=0.1, fisher="exact")
    parameters, state = PARAMETERS, optimizer.init(PARAMETERS)
    losses = []
    for _ in range(3):
        objective = mlhf.Objective(network, "softmax_cross_entropy", x, y, **counted)
        parameters, state, _, metrics = optimizer.step(objective, parameters, state)
        losses.append(float(metrics["loss"]))
    return [*losses, *tf.nest.flatten((parameters, state.factors))]


CASES = {
    "weights": ([0, 0, 1, 2, 3], {"weights": np.array([2, 1, 1, 1]) * 4 / 5}),
    "zero weights": ([0, 2], {"weights": np.array([1.0, 0, 1, 0]) * 2}),
    "a mask": ([0, 2, 3], {"mask": np.array([True, False, True, True])}),
    "both": ([0, 3, 3], {"mask": Y == 0, "weights": np.array([1, 9, 9, 2]) * 2 / 3}),
}


@pytest.mark.parametrize("name", CASES)
def test_an_example_counts_as_often_as_its_weight_says(name):
    chosen, counted = CASES[name]
    expected = steps(X[chosen], Y[chosen])
    for a, b in zip(steps(X, Y, **counted), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert abs(steps(X, Y)[0] - expected[0]) > 1e-3
