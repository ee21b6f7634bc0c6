"""Each experiment in small, on images of noise."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.train_val.experiments.clouds import examples
from train_val.experiments import (
    learned_schedules,
    learned_training_set,
    mnist_slices,
    reporting,
    weight_penalties,
)

TRAIN, VALID, TEST = examples(60, 1), examples(40, 2), examples(40, 3)


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
    for outer in learned_schedules.OUTER_ADAMS:
        got = learned_schedules.run(
            TRAIN, VALID, TEST, iterations=4, rate=0.1, outer_adam=outer, **small
        )
        assert got["train_loss"][-1] < got["train_loss"][0]
    assert np.array(got["log_rate"]).shape == (5, 4)
    learned_schedules.draw(
        got | {name: np.zeros((5, 8)) for name in ("log_rate", "logit_momentum")},
        tmp_path / "schedules.png",
    )
    found = learned_schedules.average(TRAIN, 2, **small)
    assert found["mean"].shape == (5, 4) and (found["deviation"] > 0).any()
    assert found["roughness"].shape == (2, 4)
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


@pytest.mark.data
def test_slices_of_mnist(data_dir):
    first, second = mnist_slices.load_slices(data_dir, [100, 50])
    assert first.images.shape == [100, 784] and second.labels.shape == [50]
    # The first labels of the file.
    np.testing.assert_array_equal(first.labels[:5], [5, 0, 4, 1, 9])
    with pytest.raises(ValueError, match="at most 70,000"):
        mnist_slices.load_slices(data_dir, [70_001])
