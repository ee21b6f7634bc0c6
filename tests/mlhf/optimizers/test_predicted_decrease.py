"""The ratio of the shown to the predicted decrease, on losses whose ratio is known."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf.optimizers.predicted_decrease import correction, no_decrease, with_batch


def after(losses, predictions):
    decrease = no_decrease(tf.float64)
    for count, (loss, predicted) in enumerate(zip(losses, predictions, strict=True), 1):
        numbers = (tf.constant(float(number), tf.float64) for number in (count, loss, predicted))
        decrease = with_batch(decrease, *numbers)
    return decrease


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(1.0, 1), (0.6, 0), (0.36, -1), (0.05, -1), (1.25, 3), (3.0, 5), (0.6**0.5, 0.5), (-0.5, -1)],
)
def test_is_the_logarithm_of_the_ratio(ratio, expected):
    predictions = [0, 0.1, 0.3, 0.2, 0.05, 0.1, 0.15] * 4
    # Averages of both with the same weights have the ratio that both have at every step.
    losses = 5 - ratio * np.cumsum(predictions)
    assert float(correction(after(losses, predictions))) == pytest.approx(expected, abs=1e-9)


def test_a_model_that_expects_no_decrease_is_not_trusted():
    assert float(correction(after([2, 1.9, 1.8], [0, -0.1, -0.1]))) == -1
    # Nothing is known yet.
    assert float(correction(after([2], [0]))) == -1


def test_noise_of_batches_averages_out():
    noise = np.random.default_rng(0).normal(size=400) * 0.3
    predictions = [0] + [0.005] * 399
    losses = 5 - 0.6 * np.cumsum(predictions) + noise
    assert abs(float(correction(after(losses - noise[0], predictions)))) < 0.25
