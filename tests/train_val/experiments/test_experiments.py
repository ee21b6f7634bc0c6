"""Each experiment in small, on images of noise, and what DrMAD is worth on real ones."""

import json

import numpy as np
import pytest
import tensorflow as tf

from train_val.experiments import (
    drmad_fidelity,
    learned_schedules,
    learned_training_set,
    mnist_slices,
    reporting,
    weight_penalties,
)

RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.normal(size=(10, 784))


def examples(count):
    """Ten clouds that a linear classifier tells apart."""
    labels = RANDOM.integers(0, 10, count)
    images = CENTRES[labels] + RANDOM.normal(size=(count, 784))
    return mnist_slices.Examples(
        tf.constant(0.1 * images, tf.float32), tf.constant(labels, tf.int32)
    )


TRAIN, VALID, TEST = examples(60), examples(40), examples(40)


def test_a_training_set_is_learned(tmp_path):
    got = learned_training_set.run(VALID, TEST, iterations=5)
    assert got["valid_loss"][-1] < 0.7 * got["valid_loss"][0]
    assert got["test_loss"][-1] < got["test_loss"][0]
    learned_training_set.draw(got["images"], tmp_path / "images.png")
    assert (tmp_path / "images.png").stat().st_size > 1000


def test_penalties_of_every_weight_are_learned(tmp_path):
    got = weight_penalties.run(TRAIN, VALID, TEST, iterations=3, rate=100.0, steps=6, batch_size=20)
    assert got["outer_loss"][-1] < got["outer_loss"][0]
    assert np.ptp(got["log_l2"]) > 0
    weight_penalties.draw(got, tmp_path / "penalties.png")
    assert (tmp_path / "penalties.png").exists()


def test_schedules_are_learned(tmp_path):
    small = {"sizes": (784, 6, 10), "steps": 5, "batch_size": 20}
    got = learned_schedules.run(TRAIN, VALID, TEST, iterations=4, rate=0.3, **small)
    assert got["train_loss"][-1] < got["train_loss"][0]
    assert np.array(got["log_rate"]).shape == (5, 4)
    learned_schedules.draw(
        got | {name: np.zeros((5, 8)) for name in ("log_rate", "logit_momentum")},
        tmp_path / "schedules.png",
    )
    found = learned_schedules.average(TRAIN, 2, **small)
    assert found["mean"].shape == (5, 4) and (found["deviation"] > 0).any()
    reporting.save(tmp_path / "runs.json", {0: got})
    assert json.loads((tmp_path / "runs.json").read_text())["0"]["bits"] > 0


def test_the_chain_rule_of_the_learned_schedules():
    """One logarithm against a central difference of the fixed-point training."""
    schedules = learned_schedules.Schedules(TRAIN, sizes=(784, 4, 10), steps=4, batch_size=20)
    learned = schedules.start()
    _, gradient = schedules.differentiate(learned, 1)
    random = np.random.default_rng(1)
    for name in ("log_rate", "log_scale"):
        direction = tf.constant(random.normal(size=learned[name].shape), tf.float32)
        ends = [
            float(
                schedules.differentiate(learned | {name: learned[name] + eps * direction}, 1)[
                    0
                ].valid_loss
            )
            for eps in (0.05, -0.05)
        ]
        along = float(tf.reduce_sum(direction * gradient[name]))
        assert along == pytest.approx((ends[0] - ends[1]) / 0.1, rel=0.05)


@pytest.mark.parametrize("name", ["log_l2", pytest.param("transform", marks=pytest.mark.slow)])
def test_the_fidelity_table(name):
    small = {"sizes": (784, 6, 10), "steps": 10, "batch_size": 20}
    table = drmad_fidelity.run(name, TRAIN, VALID, **small)
    assert table["exact"]["cosine_weights"] == pytest.approx(1)
    assert len(table) == 6
    # The outer loss does not read the logarithms of the penalties.
    assert (table["direct term alone"]["norm"] > 0) == (name == "transform")
    both = dict.fromkeys(drmad_fidelity.PARAMETERISATIONS, table)
    assert "truncated reverse" in drmad_fidelity.as_markdown({0: both})


def test_comparing_gradients():
    a = [tf.constant([[1.0, 3.0], [-1.0, -1.0]]), tf.constant([5.0, 5.0])]
    b = [tf.constant([[2.0, 2.0], [1.0, 1.0]]), tf.constant([-5.0, -5.0])]
    got = drmad_fidelity.compare(a, b)
    # Units: (2, -1) and (2, 1).
    assert got["cosine_units"] == pytest.approx(3 / 5) and got["sign_units"] == 0.5
    assert got["norm"] == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.data
def test_what_drmad_is_worth(data_dir):
    train, valid = mnist_slices.load_slices(data_dir, [15_000, 5_000])
    with_direct = drmad_fidelity.run("transform", train, valid, steps=1000)
    through = drmad_fidelity.run("log_l2", train, valid, steps=1000)
    few, all_points = "DrMAD, T/10 points, first batches", "DrMAD, T points"
    # In its authors' parameterisation nearly all of the signal is the direct term.
    difference = with_direct[few]["cosine_units"] - with_direct["direct term alone"]["cosine_units"]
    assert abs(difference) < 0.1
    # Elsewhere it has a direction, as a truncated pass of the same length has, and no magnitude.
    assert through[few]["cosine_units"] > 0.5
    assert through["truncated reverse, last T/10"]["cosine_units"] > 0.5
    assert through[few]["norm"] < 0.5
    # As the paper prints it, it explodes.
    assert through[all_points]["norm"] > 10 and through[all_points]["cosine_units"] < 0.5


@pytest.mark.data
def test_slices_of_mnist(data_dir):
    first, second = mnist_slices.load_slices(data_dir, [100, 50])
    assert first.images.shape == [100, 784] and second.labels.shape == [50]
    # The first labels of the file.
    np.testing.assert_array_equal(first.labels[:5], [5, 0, 4, 1, 9])
    with pytest.raises(ValueError, match="at most 70,000"):
        mnist_slices.load_slices(data_dir, [70_001])
