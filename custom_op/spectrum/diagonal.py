"""The diagonal of a curvature operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from custom_op.operators.operator import CurvatureOperator
from custom_op.spectrum.estimate import Estimate, signs

Structure = Any

# Columns of one matrix product, for which a data set is read once.
_COLUMNS = 16


def diagonal(operator: CurvatureOperator, samples: int | None = None, *, seed: int = 0) -> Any:
    """Returns the diagonal, exact or estimated (Bekas, Kokiopoulou and Saad 2007).

    The estimate is the mean of v ⊙ A v over vectors v of random signs, which is unbiased. Its
    variance at coordinate i is Σ_{j≠i} A_ij² / samples: small diagonal entries in large rows of A
    need many samples.

    Args:
      operator: An operator made outside a `tf.function`, with parameters of float32 or float64.
      samples: The number of products, at least 2; by default P, one for each unit vector, which
        makes the diagonal exact.
      seed: The seed of the random signs.

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
        terms = (vectors * (adapted @ vectors)).astype(np.float64)
        total += terms.sum(1)
        squares += np.square(terms).sum(1)
    if samples is None:
        value, error = total, np.zeros(size)
    else:
        value = total / count
        variance = np.maximum(squares / count - value**2, 0) * count / (count - 1)
        error = np.sqrt(variance / count)

    def in_form(vector: np.ndarray) -> Structure:
        return operator.unflatten(tf.constant(vector, operator.dtype))

    return Estimate(in_form(value), in_form(error))
