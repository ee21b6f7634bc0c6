import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.sampling import annealed, importance_weights, stratified_points


@given(st.integers(1, 40), st.integers(0, 100))
def test_one_point_in_each_stratum(size, seed):
    points = stratified_points(np.random.default_rng(seed), size)
    assert np.floor(points * size).astype(int).tolist() == list(range(size))
    assert points.max() < 1


def test_points_are_uniform_within_the_stratum():
    generator = np.random.default_rng(0)
    points = np.array([stratified_points(generator, 4) for _ in range(20_000)])
    inside = points * 4 - np.arange(4)
    np.testing.assert_allclose(inside.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(inside.var(axis=0), 1 / 12, atol=0.003)


def test_the_last_point_stays_below_1():
    class Highest:
        def random(self, size):
            return np.full(size, 1 - 2**-53)

    assert stratified_points(Highest(), 3)[-1] < 1


def test_weights_by_hand():
    # N = 4, P = 1/2, 1/4, 1/8, 1/8; (N P)^-1 = 1/2, 1, 2, 2; over the largest: 1/4, 1/2, 1, 1.
    probabilities = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    weights = importance_weights(probabilities, 1 / 8, beta=1.0)
    assert weights.tolist() == [1 / 4, 1 / 2, 1, 1]
    weights = importance_weights(probabilities, 1 / 8, beta=0.5)
    assert weights.tolist() == [1 / 2, np.sqrt(1 / 2), 1, 1]
    assert importance_weights(probabilities, 1 / 8, beta=0.0).tolist() == [1] * 4


@given(st.floats(0, 1), st.integers(1, 1000))
def test_annealing_begins_and_ends_exactly(beta, steps):
    assert annealed(beta, steps, 0) == beta
    assert annealed(beta, steps, steps) == annealed(beta, steps, 10 * steps) == 1
    assert annealed(beta, None, 10**6) == beta


def test_annealing_is_linear():
    assert [annealed(0.5, 4, step) for step in range(6)] == [0.5, 0.625, 0.75, 0.875, 1, 1]
    assert annealed(0.2, 10, 5) == pytest.approx(0.6)
