"""DrMAD's fidelity table in small, and what DrMAD is worth on real images."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad
from tests.train_val.experiments.clouds import examples
from train_val.experiments import drmad_fidelity, mnist_slices

TRAIN, VALID = examples(60, 1), examples(40, 2)


@pytest.mark.parametrize("name", ["log_l2", pytest.param("transform", marks=pytest.mark.slow)])
def test_the_fidelity_table(name, tmp_path):
    small = {"sizes": (784, 6, 10), "steps": 10, "batch_size": 20}
    found = drmad_fidelity.run(name, TRAIN, VALID, **small, lengths=[1, 10])
    table = found["estimators"]
    assert table["exact"]["cosine_weights"] == pytest.approx(1)
    # As many truncated steps as there are is the exact gradient.
    assert found["lengths"]["truncated"][-1] == pytest.approx(1)
    assert found["lengths"]["truncated"][0] < 0.999
    # The outer loss does not read the logarithms of the penalties.
    assert (table["direct term alone"]["norm"] > 0) == (name == "transform")
    assert table["direct term alone"]["cosine_through"] == 0
    # A sign for all is right for the larger part of the units.
    assert 0.5 <= table["one sign for all"]["sign_units"] <= 1
    runs = {0: dict.fromkeys(drmad_fidelity.PARAMETERISATIONS, found)}
    assert "truncated reverse" in drmad_fidelity.as_markdown(runs)
    drmad_fidelity.draw(runs, tmp_path / "fidelity.png")
    assert (tmp_path / "fidelity.png").stat().st_size > 1000


@pytest.mark.parametrize("name", drmad_fidelity.PARAMETERISATIONS)
def test_the_parameterisations(name):
    """Against a central difference of the training, along a random direction."""
    problem, weights, hyper = drmad_fidelity.describe(
        name, TRAIN, VALID, 0, (784, 4, 10), 4, 20, 0.9
    )
    # Penalties large enough for float32 to see them.
    hyper = {name: [leaf + (6.0 if name == "log_l2" else 0.0) for leaf in hyper[name]]}
    direction = [
        np.random.default_rng(1).normal(size=leaf.shape).astype(np.float32) for leaf in hyper[name]
    ]
    slope = hypergrad.reverse(problem, weights, hyper).hypergradient[name]
    along = sum(float(np.sum(a * b)) for a, b in zip(slope, direction, strict=True))
    eps = {"transform": 1e-3, "log_l2": 0.05}[name]
    ends = []
    for sign in (1, -1):
        moved = [leaf + sign * eps * d for leaf, d in zip(hyper[name], direction, strict=True)]
        ends.append(float(hypergrad.train(problem, weights, {name: moved}).valid_loss))
    assert along == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=0.05)


def test_comparing_gradients():
    a = [tf.constant([[1.0, 3.0], [-1.0, -1.0]]), tf.constant([5.0, 5.0])]
    b = [tf.constant([[2.0, 2.0], [1.0, 1.0]]), tf.constant([-5.0, -5.0])]
    direct = [tf.constant([[2.0, 2.0], [0.0, 0.0]]), tf.constant([0.0, 0.0])]
    got = drmad_fidelity.compare(a, b, direct)
    # Units: (2, -1) and (2, 1), of which (2, 0) is direct.
    assert got["cosine_units"] == pytest.approx(3 / 5) and got["sign_units"] == 0.5
    assert got["cosine_through"] == pytest.approx(-1)
    assert got["norm"] == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.data
def test_what_drmad_is_worth(data_dir):
    train, valid = mnist_slices.load_slices(data_dir, [15_000, 5_000])
    few, all_points = "DrMAD, T/10 points, first batches", "DrMAD, T points"
    same_cost = "truncated reverse, last T/10"
    options = {"lengths": [200]}  # of 2,000 steps: with 1,000 it has 0.07 more than the direct term
    with_direct = drmad_fidelity.run("transform", train, valid, **options)["estimators"]
    # In its authors' parameterisation it is the direct term, which costs no reverse pass.
    alone = with_direct["direct term alone"]["cosine_units"]
    assert with_direct[few]["cosine_units"] == pytest.approx(alone, abs=0.03)
    # Elsewhere it has a direction, under that of a truncated pass of the same length, no magnitude,
    # and more of the signs than one sign for all.
    through = drmad_fidelity.run("log_l2", train, valid, **options)["estimators"]
    assert 0.7 < through[few]["cosine_units"] < through[same_cost]["cosine_units"]
    assert through[few]["norm"] < 0.2
    assert through[few]["sign_units"] > through["one sign for all"]["sign_units"] + 0.05
    # As the paper prints it, it explodes and points nowhere.
    assert through[all_points]["norm"] > 100
    assert abs(through[all_points]["cosine_units"]) < 0.4
