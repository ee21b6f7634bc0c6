"""A pair of particles in a checkpoint."""

import math

import numpy as np
import tensorflow as tf

from mlhf.meta_training import antithetic_pairs
from tests.mlhf.meta_training.small_runs import make_task
from tests.mlhf.meta_training.test_evolution import optimizer


def test_what_is_not_finite_in_a_pair_comes_back_bit_for_bit():
    particles = antithetic_pairs.Particles(make_task(), optimizer(), 0)
    carry = particles.begin(0)[0]
    flat = carry.weights.numpy()
    flat[[1, 4]] = math.nan, -math.inf
    damped = carry.state._replace(
        residual=tf.fill(carry.state.residual.shape, tf.constant(math.inf, "float64"))
    )
    pair = antithetic_pairs.AntitheticPair(
        [carry._replace(weights=tf.constant(flat), state=damped)] * 2, np.ones(3), 4
    )
    saved = particles.state(pair)
    for leaf in tf.nest.flatten(saved):
        assert np.all(np.isfinite(leaf)) if np.asarray(leaf).dtype.kind == "f" else True
    particles.restore(other := antithetic_pairs.AntitheticPair([], np.zeros(3), 0), saved)
    for a, b in zip(pair.carries, other.carries, strict=True):
        np.testing.assert_array_equal(a.weights, b.weights)
        parameters = particles.layout.unflatten(a.state.residual)
        tf.nest.map_structure(
            np.testing.assert_array_equal, parameters, particles.layout.unflatten(b.state.residual)
        )
