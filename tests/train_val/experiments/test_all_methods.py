"""The comparisons of all methods and of online tuning in small, on clouds of points."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad
from tests.train_val.experiments.clouds import examples
from train_val.experiments import all_methods, mnist_slices, online_tuning

SLICES = examples(60), examples(40, 1), examples(40, 2)
SHAPES = {
    "mlp": mnist_slices.shapes_of([784, 4, 3, 10]),
    "cnn": [[3, 3, 1, 2], [2], [3, 3, 2, 1], [1], [49, 10], [10]],
}


@pytest.mark.parametrize("network", SHAPES)
def test_exact_methods_agree_and_differences_with_them(network):
    weights = [tf.cast(leaf, tf.float64) for leaf in all_methods.first_weights(SHAPES[network], 0)]
    train, valid, _ = (part._replace(images=tf.cast(part.images, tf.float64)) for part in SLICES)
    problem = all_methods.training(train, valid, steps=3, batch_size=6, seed=0)
    hyper = {
        "learning_rate": tf.constant(0.1, tf.float64),
        "momentum": tf.constant(0.6, tf.float64),
        "log_l1": tf.constant([-4.0, -5.0, -6.0], tf.float64),
        "log_l2": tf.constant([-3.0, -4.0, -5.0], tf.float64),
    }
    want = hypergrad.reverse(problem, weights, hyper).hypergradient
    assert all(float(tf.reduce_min(tf.abs(value))) > 0 for value in want.values())
    online = hypergrad.rtho(problem, weights, hyper, update=0.0, every=3).hypergradient
    for found in (hypergrad.forward(problem, weights, hyper).hypergradient, online):
        assert all_methods.apart(found, want) < 1e-9

    def loss(name, eps):
        moved = hyper | {name: hyper[name] + eps}
        return float(hypergrad.train(problem, weights, moved).valid_loss)

    for name in hyper:
        # Of 1e-5 the learning rate's would cross a kink of the convolutions' ReLU.
        difference = (loss(name, 1e-6) - loss(name, -1e-6)) / 2e-6
        assert float(tf.reduce_sum(want[name])) == pytest.approx(difference, rel=1e-5)


@pytest.mark.slow
def test_all_methods_on_a_small_network(tmp_path):
    setting = all_methods.Setting(SHAPES["mlp"], moves=3, steps=4)
    got = all_methods.run(*SLICES, setting, batch_size=20)
    assert list(got) == list(all_methods.METHODS)
    for method, run in got.items():
        assert run["valid_loss"][-1] < run["valid_loss"][0], method
        assert all_methods.apart(run["first"], got["reverse"]["first"]) < 1e-3
        assert 0 <= run["test_error"] <= 1 and min(run["seconds"]) > 0
    # One goes the other's way, up to rounding; online tuning does not.
    np.testing.assert_allclose(
        got["forward"]["valid_loss"], got["reverse"]["valid_loss"], rtol=1e-4
    )
    assert len(got["reverse"]["valid_loss"]) == 4 and len(got["rtho"]["valid_loss"]) == 3
    runs = {0: {"mlp": got}}
    assert all_methods.as_markdown(runs).count("\n| ") == 5
    all_methods.draw(runs, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_online_tuning_on_a_small_network(tmp_path):
    small = {"iterations": 2, "sizes": (784, 4, 10), "steps": 6, "every": 4, "batch_size": 20}
    methods = ("reverse", "rtho", "warm restart")
    got = online_tuning.run(*SLICES, methods=methods, **small)
    online, restarted = (got[method] for method in methods[1:])
    # Twelve steps in all: two trainings and the one that shows what came out, or three moves.
    assert len(got["reverse"]["valid_loss"]) == len(online["valid_loss"]) == 3
    np.testing.assert_allclose(online["valid_loss"][:2], restarted["valid_loss"][:2], rtol=1e-5)
    assert online["hyperparameters"] != restarted["hyperparameters"]
    assert online["valid_loss"][-1] < got[online_tuning.NO_MOVES]["valid_loss"][0]
    table = online_tuning.as_markdown({0: got})
    assert table.count("\n| ") == 4 and len({line.count("|") for line in table.split("\n")}) == 1
    online_tuning.draw({0: got}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
