"""Batches of a problem: suppliers, minibatches, and their order by seed."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad as hg
from tests.mlhf.hypergrad.small_problem import WEIGHTS, make


def test_batches_come_backwards_in_the_backward_pass():
    asked = []
    data = np.random.default_rng(0).normal(size=[5, 3])

    def supply(step):
        asked.append(step)
        return data[step]

    def loss(w, h, step, batch):
        return tf.reduce_sum((w["w"] - batch) ** 4) * h["scale"]

    def graph_loss(w, h, step):
        return tf.reduce_sum((w["w"] - tf.gather(tf.constant(data), step)) ** 4) * h["scale"]

    hyper = {"scale": 0.1, "learning_rate": 0.05}
    problem = make(loss, steps=5, batches=supply)
    trained = hg.train(problem, WEIGHTS, hyper)
    del asked[:]
    result = hg.reverse(problem, WEIGHTS, hyper)
    # Some steps are compared with what was recorded and ask twice.
    backward = list(dict.fromkeys(asked[5:]))
    assert asked[:5] == [0, 1, 2, 3, 4] and backward == [4, 3, 2, 1, 0]
    inside = hg.reverse(make(graph_loss, steps=5), WEIGHTS, hyper)
    for name in hyper:
        np.testing.assert_allclose(
            result.hypergradient[name], inside.hypergradient[name], rtol=1e-13
        )
    np.testing.assert_array_equal(result.weights["w"], trained.weights["w"])


def test_what_a_supplier_raises_is_what_a_user_sees():
    def supply(step):
        if step == 2:
            raise TypeError("a fault of the supplier's own")
        return np.ones(3)

    def loss(w, h, step, batch):
        return tf.reduce_sum((w["w"] - batch) ** 2) * h["scale"]

    with pytest.raises(TypeError, match="a fault of the supplier's own"):
        hg.reverse(make(loss, batches=supply), WEIGHTS, {"scale": 0.1})
    uneven = make(loss, batches=lambda step: np.ones(3 if step < 2 else 2))
    with pytest.raises(ValueError, match=r"batches\(2\) of the shape"):
        hg.reverse(uneven, WEIGHTS, {"scale": 0.1})
    with pytest.raises(ValueError, match="batches= together with"):
        make(loss)


def test_minibatches_are_epochs_of_a_pure_function():
    data = np.arange(10.0), np.arange(10)
    batches = hg.Minibatches(data, 3, steps=7, seed=1)
    first = np.concatenate([batches(step)[1] for step in range(3)])
    assert len(set(first)) == 9
    np.testing.assert_array_equal(batches(5)[0], hg.Minibatches(data, 3, 7, seed=1)(5)[0])
    assert (batches.indices != hg.Minibatches(data, 3, 7, seed=2).indices).any()
    plain = hg.Minibatches(data, 4, steps=3, shuffle=False)
    np.testing.assert_array_equal(plain.indices[2], [0, 1, 2, 3])
    with pytest.raises(ValueError, match="batch_size from 1 to 10"):
        hg.Minibatches(data, 11, 2)


def test_every_seed_has_its_order_of_minibatches_and_all_methods_the_same():
    data = np.random.default_rng(0).normal(size=[10, 3])

    def loss(w, h, step, batch):
        return tf.reduce_sum((w["w"] - batch) ** 4) * h["scale"] / 3

    batches = hg.Minibatches(data, 3, steps=7)
    options = {"batches": batches, "steps": 7, "dynamics": hg.Momentum(0.02, 0.5)}
    problem, hyper = make(loss, **options), {"scale": 0.1, "learning_rate": 0.05}
    orders = [np.stack([batches(step, seed) for step in range(7)]) for seed in range(3)]
    np.testing.assert_array_equal(orders[0], data[batches.indices])
    for order in orders:
        for epoch in (order[:3], order[3:6]):
            assert len(np.unique(epoch.reshape(9, 3), axis=0)) == 9
    results = [hg.reverse(problem, WEIGHTS, hyper, seed=seed) for seed in range(3)]
    assert len({float(result.valid_loss) for result in results}) == 3

    # The order of a seed as a supplier of its own.
    told = make(loss, **{**options, "batches": lambda step: orders[2][step]})
    expected = hg.reverse(told, WEIGHTS, hyper)
    np.testing.assert_array_equal(results[2].weights["w"], expected.weights["w"])
    for method, more in [
        (hg.forward, {}),
        (hg.reversible, {}),
        (hg.reverse, {"storage": "checkpoints"}),
        (hg.truncated, {"window": 7}),
    ]:
        found = method(problem, WEIGHTS, hyper, seed=2, **more)
        for name, value in expected.hypergradient.items():
            np.testing.assert_allclose(found.hypergradient[name], value, rtol=1e-9)

    fixed = hg.Minibatches(data, 3, steps=7, shuffle=False)
    np.testing.assert_array_equal(fixed(2, 5), data[6:9])
    with pytest.raises(ValueError, match="at least the 8 steps of training, got 7.*steps=8"):
        make(loss, **{**options, "steps": 8})
    with pytest.raises(ValueError, match="positive number of steps, got 0"):
        hg.Minibatches(data, 3, steps=0)
