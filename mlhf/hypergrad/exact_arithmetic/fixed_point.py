"""Real numbers as 64-bit integers, whose sums can be undone exactly (Maclaurin et al. 2015).

A value x is kept as an integer q that stands for q / 2⁵²: the grid is 2.2e-16 wide everywhere, and
reaches to |x| < 2048. A float is truncated toward zero, so that the integer of -x is minus that of
x and a subtraction takes back what an addition did, bit for bit. What is smaller than the grid
vanishes: a gradient of 1e-17 moves nothing.

Arrays are NumPy's: integers there cost a quarter of what they cost as TensorFlow operations.
"""

from __future__ import annotations

import numpy as np

from mlhf.hypergrad.guards import DivergedError

RADIX_BITS = 52
LIMIT = 2048.0  # 2^63 / 2^RADIX_BITS: what a 64-bit integer holds
_ONE = 2.0**RADIX_BITS
_INVERSE = 2.0**-RADIX_BITS


class FixedPointRangeError(DivergedError):
    """A value is not finite or too large for fixed point; integers would wrap silently."""


def to_fixed(values: np.ndarray, what: str = "the values") -> np.ndarray:
    """Returns floats as fixed-point integers, truncated toward zero.

    Args:
      values: Floats of any shape.
      what: What they are, for the error.

    Returns:
      int64 of the same shape.

    Raises:
      FixedPointRangeError: If a value is not finite or not under 2048 in absolute value.
    """
    with np.errstate(over="ignore"):
        scaled = np.multiply(values, _ONE, dtype=np.float64)
    # A NaN makes the comparison false, whichever way round it runs through min and max.
    inside = scaled.size == 0 or (
        float(scaled.min()) > -LIMIT * _ONE and float(scaled.max()) < LIMIT * _ONE
    )
    if not inside:
        raise FixedPointRangeError(_refusal(what, np.asarray(values)))
    return scaled.astype(np.int64)


def to_float(fixed: np.ndarray, dtype: np.dtype | type = np.float64) -> np.ndarray:
    """Returns fixed-point integers as floats, rounded to nearest, the same every time."""
    values = fixed.astype(np.float64)
    values *= _INVERSE
    return values if values.dtype == dtype else values.astype(dtype)


def add(fixed: np.ndarray, increment: np.ndarray, what: str = "the values") -> np.ndarray:
    """Returns fixed + increment, for integers that are both fixed-point.

    Args:
      fixed: int64.
      increment: int64 of the same shape, from `to_fixed`.
      what: What is added up, for the error.

    Returns:
      int64. `take_back` with the same increment gives `fixed`, bit for bit.

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
    """Returns what `add` was given, from its result; what came through there needs no check."""
    return total - increment


def _refusal(what: str, values: np.ndarray) -> str:
    bad = ~(np.abs(values) < LIMIT)
    found = values[bad].ravel()[0]
    return (
        f"Expected {what} to be finite and under {LIMIT:g} in absolute value, the range of the "
        f"fixed-point arithmetic, got {found:g} ({int(bad.sum())} of {values.size} entries are "
        "out of it): lower the learning rate, or use `reverse`, which keeps floats."
    )
