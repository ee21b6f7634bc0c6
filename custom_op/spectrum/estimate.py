"""Random estimates with their standard errors, and the vectors that they are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A number, or a structure of them, that was estimated from random vectors.

    Attributes:
      value: The estimate.
      standard_error: Its standard deviation, estimated from the same vectors; 0 where it is exact.
    """

    value: Any
    standard_error: Any


def signs(random: np.random.Generator, size: int, count: int, dtype: np.dtype) -> np.ndarray:
    """Returns independent signs, [size, count]."""
    return (2 * random.integers(0, 2, (size, count), np.int8) - 1).astype(dtype)
