"""Fixed point: what is added is taken back bit for bit, and nothing wraps."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from mlhf.hypergrad.exact_arithmetic import fixed_point

IN_RANGE = strategies.floats(-1023, 1023, allow_nan=False)


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(arrays.arrays(np.float64, 5, elements=IN_RANGE), strategies.data())
def test_a_subtraction_takes_back_an_addition(start, data):
    x = data.draw(arrays.arrays(np.float64, 5, elements=IN_RANGE))
    before = fixed_point.to_fixed(start)
    after = fixed_point.add(before, fixed_point.to_fixed(x))
    # The way back rounds -x, not x: only truncation toward zero makes them one number.
    np.testing.assert_array_equal(
        fixed_point.add(after, fixed_point.to_fixed(-x)), before, strict=True
    )
    np.testing.assert_array_equal(
        fixed_point.take_back(after, fixed_point.to_fixed(x)), before, strict=True
    )


def test_truncates_toward_zero():
    # A quarter of the grid, either side; floor would give -1.
    x = np.array([1.25, 0.75, -0.75, -1.25]) * 2.0**-52
    np.testing.assert_array_equal(fixed_point.to_fixed(x), [1, 0, 0, -1])
    random = np.random.default_rng(0)
    x = random.normal(size=10_000) * 10.0 ** random.uniform(-18, 2, 10_000)
    assert (fixed_point.to_fixed(-x) == -fixed_point.to_fixed(x)).all()
    floor = np.floor(x * 2.0**52).astype(np.int64)
    assert (floor + np.floor(-x * 2.0**52).astype(np.int64)).any(), "floor would have passed too"


def test_values_come_back_to_the_last_digit_of_the_grid():
    x = np.random.default_rng(0).normal(size=1000)
    got = fixed_point.to_float(fixed_point.to_fixed(x))
    assert got.dtype == np.float64
    assert np.abs(got - x).max() < 2.0**-52
    single = fixed_point.to_float(fixed_point.to_fixed(x), np.float32)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, got.astype(np.float32))
    edge = np.array([np.nextafter(2048.0, 0), -np.nextafter(2048.0, 0)])
    np.testing.assert_allclose(fixed_point.to_float(fixed_point.to_fixed(edge)), edge)


def test_what_is_smaller_than_the_grid_vanishes():
    sizes = np.logspace(-19, -10, 200)
    kept = fixed_point.to_fixed(sizes)
    assert (np.diff(kept) >= 0).all()
    assert kept[0] == 0 and not kept[sizes < 2.2e-16].any() and kept[sizes > 2.3e-16].all()
    assert fixed_point.to_fixed(np.array([1e-17])) == 0


@pytest.mark.parametrize("bad", [2048.0, -2048.0, 1e300, np.inf, -np.inf, np.nan])
def test_refuses_what_integers_would_wrap_or_turn_into_nonsense(bad):
    values = np.array([0.5, bad, -0.5])
    with pytest.raises(fixed_point.FixedPointRangeError, match="1 of 3 entries") as error:
        fixed_point.to_fixed(values, "the weights")
    assert "the weights" in str(error.value) and f"{bad:g}" in str(error.value)
    if np.isfinite(bad):
        near, far = np.array([0.0, np.sign(bad) * 2047.0]), np.array([0.0, np.sign(bad) * 2.0])
        near, far = fixed_point.to_fixed(near), fixed_point.to_fixed(far)
        with pytest.raises(fixed_point.FixedPointRangeError, match="1 of 2 entries"):
            fixed_point.add(near, far)


def test_empty_arrays():
    empty = fixed_point.to_fixed(np.zeros(0))
    assert fixed_point.add(empty, empty).shape == (0,)
