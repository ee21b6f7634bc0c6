"""Chaos in small, its statistics, and the guard against divergence on real images."""

import math

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad
from tests.train_val.experiments.clouds import examples
from train_val.experiments import chaos


def test_the_derivative_follows_the_losses(tmp_path):
    found = chaos.run(examples(60), points=21, sizes=(784, 5, 10), steps=6, batch_size=20)
    x, loss, slope = (np.array(found[name]) for name in chaos.CURVES[:3])
    central = (loss[2:] - loss[:-2]) / (x[2:] - x[:-2])
    smooth = x[1:-1] < 1.5
    np.testing.assert_allclose(slope[1:-1][smooth], central[smooth], rtol=0.1, atol=0.01)
    chaos.draw(found, tmp_path / "chaos.png")
    assert (tmp_path / "chaos.png").stat().st_size > 1000


def made_up():
    """A loss with its least at 1.5; beyond 2 the derivative has the wrong sign and grows."""
    x = np.linspace(0.5, 2.5, 201)
    slope = np.where(x < 2, 1, -1) * 2 * (x - 1.5)
    growth = np.where(x < 2, 5.0, 1e5)
    loss = (x - 1.5) ** 2
    loss[-1] = slope[-1] = growth[-1] = math.nan
    return {"log_rate": x, "loss": loss, "gradient": slope, "growth": growth}


def test_agreement_by_rate_and_by_bound():
    found = made_up()
    agree = chaos.agreement(found)
    assert np.isnan(agree[[0, -1, -2]]).all()
    assert agree[10] == 1 and agree[-10] == 0
    rows = {low: row for low, *row in chaos.by_rate({0: found})}
    assert rows[0.5][1] == 1 and rows[2.25][1] == 0
    assert rows[1.0][2] == pytest.approx(0.61) and rows[2.25][3] == 1e5
    bounds = {bound: row for bound, *row in chaos.by_bound({0: found})}
    share, accepted, refused = bounds[1e4]
    assert share == pytest.approx(49 / 198, abs=0.01) and accepted == 1 and refused == 0
    assert bounds[math.inf][0] == 0 and bounds[1e1][0] == share
    assert chaos.best(found)[0] == pytest.approx(1.5)
    text = chaos.as_markdown({0: found})
    assert "| 2.25 to 2.5 | 0%" in text and "nan" not in text


@pytest.mark.slow
@pytest.mark.data
def test_the_guard_refuses_chaos_and_nothing_before_it(data_dir):
    train = chaos.load(data_dir)

    def refused(log_rate, largest_growth):
        problem, weights = chaos.describe(train)
        rate = {"learning_rate": tf.constant(math.exp(log_rate), tf.float32)}
        try:
            hypergrad.reverse(problem, weights, rate, largest_growth=largest_growth)
        except hypergrad.DivergedError as error:
            assert "chaotic" in str(error)
            return True
        return False

    assert not any(refused(log_rate, 100.0) for log_rate in (0.5, 1.0, 1.4))
    assert all(refused(log_rate, 100.0) for log_rate in (2.1, 2.3, 2.5))
    # The default is for what no float can bear.
    assert not refused(2.0, 1e6)
