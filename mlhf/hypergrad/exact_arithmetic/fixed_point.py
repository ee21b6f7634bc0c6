"""Real numbers as 64-bit integers, whose sums can be undone exactly (Maclaurin et al. 2015).

A value x is stored as an integer q that stands for q / 2⁵²: the grid is 2.2e-16 wide everywhere,
and covers |x| < 2048. A float is truncated toward zero, so that the integer of -x is minus that of
x and a subtraction undoes an addition, bit for bit. Numbers smaller than the grid vanish: a
gradient of 1e-17 moves nothing.

The arrays are NumPy arrays, whose integer operations cost a quarter of TensorFlow's.
"""

from __future__ import annotations

import numpy as np

from mlhf.hypergrad.guards import DivergedError

RADIX_BITS = 52
LIMIT = 2048.0  # 2^63 / 2^RADIX_BITS: the range of a 64-bit integer
_ONE = 2.0**RADIX_BITS
_INVERSE = 2.0**-RADIX_BITS


class FixedPointRangeError(DivergedError):
    """Raised when a value is not finite or too large for fixed point, where integers would wrap."""


def to_fixed(values: np.ndarray, what: str = "the values") -> np.ndarray:
    """Returns floats as fixed-point integers, truncated toward zero.

    Args:
      values: Floats of any shape.
      what: The name of the values, for the error's text.

    Returns:
      An int64 array of the same shape.

    Raises:
      FixedPointRangeError: If a value is not finite or not under 2048 in absolute value.
    """
    with np.errstate(over="ignore"):
        scaled = np.multiply(values, _ONE, dtype=np.float64)
    # A NaN makes the comparison false, however min and max treat it.
    inside = scaled.size == 0 or (
        float(scaled.min()) > -LIMIT * _ONE and float(scaled.max()) < LIMIT * _ONE
    )
    if not inside:
        raise FixedPointRangeError(_refusal(what, np.asarray(values)))
    return scaled.astype(np.int64)


def to_float(fixed: np.ndarray, dtype: np.dtype | type = np.float64) -> np.ndarray:
    """Returns fixed-point integers as floats, rounded to nearest, with the same bits every time."""
    values = fixed.astype(np.float64)
    values *= _INVERSE
    return values if values.dtype == dtype else values.astype(dtype)


def add(fixed: np.ndarray, increment: np.ndarray, what: str = "the values") -> np.ndarray:
    """Returns fixed + increment, for integers that are both fixed-point.

    Args:
      fixed: An int64 array.
      increment: An int64 array of the same shape, from `to_fixed`.
      what: The name of the sum, for the error's text.

    Returns:
      An int64 array. `take_back` with the same increment returns `fixed`, bit for bit.

    Raises:
      FixedPointRangeError: If a sum leaves |x| < 2048.
    """
    total = fixed + increment
    # A sum has wrapped where its sign differs from the sign of both its parts.
    wrapped = total ^ fixed
    wrapped &= total ^ increment
    if wrapped.size and int(wrapped.min()) < 0:
        raise FixedPointRangeError(_refusal(what, to_float(fixed) + to_float(increment)))
    return total


def take_back(total: np.ndarray, increment: np.ndarray) -> np.ndarray:
    """Returns the first argument of `add` from its result, which `add` has checked already."""
    return total - increment


def _refusal(what: str, values: np.ndarray) -> str:
    bad = ~(np.abs(values) < LIMIT)
    found = values[bad].ravel()[0]
    return (
        f"Expected {what} to be finite and under {LIMIT:g} in absolute value, the range of the "
        f"fixed-point arithmetic, got {found:g} ({int(bad.sum())} of {values.size} entries are "
        "out of it): lower the learning rate, or use `reverse`, which keeps floats."
    )
