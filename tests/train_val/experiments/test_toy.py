"""The toy that runs backwards."""

import numpy as np
import pytest
import tensorflow as tf

from train_val.experiments import toy


def test_only_fixed_point_comes_back(tmp_path):
    found = toy.run()
    distance = found["distance"]
    assert distance["float16"] > 1 > distance["float32"] > distance["float64"] > 0
    assert distance["fixed point"] == 0 and found["is_back"] and found["bits"] > 0
    # Its training is that of floats, but for the decay's 2⁻¹⁶.
    fixed, floats = (np.array(found["ways"][name][0]) for name in ("fixed point", "float64"))
    np.testing.assert_allclose(fixed, floats, atol=0.01)
    learned = found["learned"]
    assert learned["loss"][1] < learned["loss"][0] - 30
    last = toy.loss(tf.constant(learned["paths"][0][-1], tf.float64))
    assert float(last) == pytest.approx(learned["loss"][0], rel=1e-3)
    toy.draw(found, tmp_path / "toy.png")
    assert (tmp_path / "toy.png").stat().st_size > 10_000
    assert "| float16 |" in toy.as_markdown(found)


def test_the_loss():
    x, y = toy.START
    r = 100 * (y - x**2) ** 2 + (1 - x) ** 2 + 200 * x
    assert float(toy.loss(tf.constant(toy.START, tf.float64))) == pytest.approx(
        800 / (1 + np.exp(-r / 500))
    )
