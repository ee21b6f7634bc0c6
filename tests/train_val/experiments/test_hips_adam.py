"""The original's outer optimizer, and the roughness of curves."""

import numpy as np
import tensorflow as tf

from train_val.experiments import hips_adam, learned_schedules


def test_three_updates_by_hand():
    gradients = np.array([[1.0, -2.0], [0.5, 0.1], [3.0, 0.0]])
    w = {"a": tf.zeros(2, tf.float64)}
    state = hips_adam.init(w)
    m, v, expected = 0.0, 0.0, np.zeros(2)
    for i, g in enumerate(gradients):
        w, state = hips_adam.update(w, {"a": tf.constant(g)}, state, tf.constant(0.1))
        newest = 1 - 0.9 * 1e-4**i
        m, v = newest * g + (1 - newest) * m, 0.01 * g**2 + 0.99 * v
        over = m / (1 - 0.9 ** (i + 1))
        expected -= np.float32(0.1) * over / (np.sqrt(v / (1 - 0.99 ** (i + 1))) + 1e-4)
        np.testing.assert_allclose(w["a"], expected, rtol=1e-12)
    # The first is a step of the rate, the second five times too long.
    first, _ = hips_adam.update(
        {"a": tf.zeros(2, tf.float64)},
        {"a": tf.constant(gradients[0])},
        hips_adam.init(w),
        tf.constant(0.1),
    )
    np.testing.assert_allclose(first["a"], [-0.1, 0.1], rtol=1e-3)


def test_roughness():
    noise = np.random.default_rng(0).normal(size=(5000, 2))
    np.testing.assert_allclose(learned_schedules.roughness(noise), 2, rtol=0.1)
    wave = np.sin(np.linspace(0, 6, 100))[:, np.newaxis]
    assert learned_schedules.roughness(wave) < 0.01
