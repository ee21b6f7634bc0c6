"""RGD-NN's examples: its backward pass is right without its defects, and wrong with each."""

import numpy as np
import pytest

from mlhf import hypergrad
from train_val.experiments import rgd_nn


@pytest.fixture(scope="module")
def small():
    """Two layers and two epochs of four batches."""
    return rgd_nn.Setting(rgd_nn.EXAMPLES["two layers"], seed=3, count=128)


def test_without_defects_it_is_the_gradient(small):
    got = small.by_hand(small.start, ())
    hyper = {**small.start, "initial_weights": small.weights}
    right = hypergrad.reverse(small.problem, small.weights, hyper).hypergradient
    for name in small.start:
        np.testing.assert_allclose(got[name], right[name], rtol=1e-9)
    flat = np.concatenate([np.ravel(leaf) for leaf in right["initial_weights"]])
    np.testing.assert_allclose(got["weights"], flat, rtol=1e-9)


@pytest.mark.parametrize("defect", rgd_nn.DEFECTS)
def test_each_defect_alone_is_wrong(small, defect):
    got, right = (small.by_hand(small.start, defects) for defects in ((defect,), ()))
    difference = got["learning_rate"] - right["learning_rate"]
    assert np.linalg.norm(difference) > 0.05 * np.linalg.norm(right["learning_rate"])


def test_the_outer_product_is_harmless_for_variables_of_one_number():
    neuron = rgd_nn.Setting(rgd_nn.EXAMPLES["one neuron"], seed=0, count=64)
    a = neuron.by_hand(neuron.start, ("outer", "blocks"))
    b = neuron.by_hand(neuron.start, ("blocks",))
    np.testing.assert_allclose(a["learning_rate"], b["learning_rate"], rtol=1e-12)


def test_a_rate_of_a_billion_is_what_the_defects_ask_for():
    neuron = rgd_nn.Setting(rgd_nn.EXAMPLES["one neuron"], seed=0)
    right = neuron.right(neuron.start).hypergradient["learning_rate"]
    wrong = neuron.by_hand(neuron.start, rgd_nn.DEFECTS)["learning_rate"]
    assert 1e-10 < np.linalg.norm(wrong) / np.linalg.norm(right) < 1e-7


def test_the_right_gradients_tune(tmp_path):
    found = {
        name: rgd_nn.run(name, seed=1, iterations=5, rate=0.05, count=128)
        for name in rgd_nn.EXAMPLES
    }
    for name, run in found.items():
        for course in rgd_nn.COURSES[1:]:
            assert run[course]["train_excess"][-1] < run[course]["train_excess"][0], name
    runs = {1: found}
    assert "as RGD-NN" in rgd_nn.as_markdown(runs)
    rgd_nn.draw(runs, tmp_path / "courses.png")
    assert (tmp_path / "courses.png").stat().st_size > 1000
