"""Granularity of penalties in small."""

import numpy as np
import pytest
import tensorflow as tf

from tests.train_val.experiments.clouds import examples
from train_val.experiments import penalty_granularity

SMALL = {"sizes": (784, 6, 5, 10), "steps": 6, "batch_size": 10}
DATA = examples(60)


def test_the_hypergradient_against_a_difference():
    granularity = penalty_granularity.Granularity(DATA, **SMALL)
    random = np.random.default_rng(0)
    point, direction = (
        [tf.constant(random.normal(size=shape), tf.float32) for shape in granularity.kernels]
        for _ in range(2)
    )
    _, gradient = granularity.differentiate(point, 3)
    ends = [
        granularity.differentiate([t + eps * d for t, d in zip(point, direction, strict=True)], 3)[
            0
        ]
        for eps in (0.01, -0.01)
    ]
    along = sum(float(tf.reduce_sum(g * d)) for g, d in zip(gradient, direction, strict=True))
    assert along == pytest.approx((ends[0] - ends[1]) / 0.02, rel=0.02)


@pytest.mark.slow
def test_stages(tmp_path):
    stages = (("all", 2), ("layers", 1), ("units", 1))
    got = penalty_granularity.run(DATA, examples(30), stages=stages, **SMALL)
    assert len(got["test_loss"]) == 4
    assert [len(losses) for losses in got["valid_loss"]] == [2, 1, 1]
    by_all, by_layers, by_units = got["by_unit"]
    assert len({value for layer in by_all for value in layer}) == 1
    assert all(len(set(layer)) == 1 for layer in by_layers)
    assert any(len(set(layer)) > 1 for layer in by_units)
    text = penalty_granularity.as_markdown({0: got, 1: got}, stages)
    assert "after 1 x units" in text and "| mean |" in text
    penalty_granularity.draw({0: got}, tmp_path / "granularity.png", stages)
    assert (tmp_path / "granularity.png").stat().st_size > 1000
