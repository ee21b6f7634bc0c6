"""The diagonal of a curvature operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from custom_op.operators.operator import CurvatureOperator
from custom_op.spectrum.estimate import Estimate, signs

# Columns of one matrix product: a data set is passed over once for so many.
_COLUMNS = 16


def diagonal(operator: CurvatureOperator, samples: int | None = None, *, seed: int = 0) -> Any:
    """Returns the diagonal, exact or estimated (Bekas, Kokiopoulou and Saad 2007).

    The estimate is the mean of v ⊙ A v over vectors v of random signs, which is unbiased. Its
    variance at coordinate i is Σ_{j≠i} A_ij² / samples: large rows of A disturb it, and many
    samples are needed for small entries beside them.

    Args:
      operator: Made outside a `tf.function`, its parameters float32 or float64.
      samples: How many products to spend, at least 2; by default P, one for each unit vector, and
        the diagonal is exact.
      seed: Of the random signs.

    Returns:
      An `Estimate` whose value and standard error are structures of tensors like the parameters.

    Raises:
      ValueError: If there are too few samples.
      TypeError: If the parameters have several dtypes, or one that NumPy does not have.
    """
    if samples is not None and samples < 2:
        raise ValueError(f"Expected at least 2 samples, got {samples}.")
    adapted, size = operator.to_scipy(), operator.shape[0]
    count = size if samples is None else samples
    random = np.random.default_rng(seed)
    total, squares = np.zeros(size), np.zeros(size)
    for start in range(0, count, _COLUMNS):
        columns = min(_COLUMNS, count - start)
        if samples is None:
            vectors = np.eye(size, columns, -start, dtype=adapted.dtype)
        else:
            vectors = signs(random, size, columns, adapted.dtype)
        found = (vectors * (adapted @ vectors)).astype(np.float64)
        total += found.sum(1)
        squares += np.square(found).sum(1)
    if samples is None:
        value, error = total, np.zeros(size)
    else:
        value = total / count
        variance = np.maximum(squares / count - value**2, 0) * count / (count - 1)
        error = np.sqrt(variance / count)

    def in_form(vector):
        return operator.unflatten(tf.constant(vector, operator.dtype))

    return Estimate(in_form(value), in_form(error))
