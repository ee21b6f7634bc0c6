"""Random estimates with their standard errors, and the random vectors that they use."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A number, or a structure of numbers, estimated from random vectors.

    Attributes:
      value: The estimate.
      standard_error: Its standard deviation, estimated from the same vectors; 0 if it is exact.
    """

    value: Any
    standard_error: Any


def signs(random: np.random.Generator, size: int, count: int, dtype: np.dtype) -> np.ndarray:
    """Returns independent random signs, [size, count]."""
    return (2 * random.integers(0, 2, (size, count), np.int8) - 1).astype(dtype)
