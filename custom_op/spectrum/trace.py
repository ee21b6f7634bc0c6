"""The trace of a curvature operator."""

from __future__ import annotations

import numpy as np

from custom_op.operators.operator import CurvatureOperator
from custom_op.spectrum.estimate import Estimate, signs


def trace(operator: CurvatureOperator, products: int = 60, *, seed: int = 0) -> Estimate:
    """Estimates the trace by Hutch++ (Meyer, Musco, Musco and Woodruff 2021, algorithm 1).

    A third of the products finds a subspace Q of large eigenvalues, a third takes the trace there
    exactly, and the last third estimates the rest from random signs g:

        tr A = tr QᵀAQ + E <(I - QQᵀ) g, A (I - QQᵀ) g>.

    The error falls as 1/products for a positive semidefinite A, where signs alone (Hutchinson)
    give 1/√products.

    Args:
      operator: An operator made outside a `tf.function`, with parameters of float32 or float64.
      products: The number of products, at least 4; two thirds as many vectors are kept. With P or
        more the trace is exact.
      seed: The seed of the random signs.

    Returns:
      The trace and its standard error, floats.

    Raises:
      ValueError: If there are too few products.
      TypeError: If the parameters have several dtypes, or one that NumPy does not have.
    """
    if products < 4:
        raise ValueError(f"Expected at least 4 products, got {products}.")
    adapted, size = operator.to_scipy(), operator.shape[0]
    if products >= size:
        return Estimate(float(np.trace(adapted @ np.eye(size, dtype=adapted.dtype))), 0.0)
    random, sketched = np.random.default_rng(seed), products // 3
    sketch = adapted @ signs(random, size, sketched, adapted.dtype)
    basis, _ = np.linalg.qr(sketch)
    inside = np.sum(basis * (adapted @ basis), dtype=np.float64)
    rest = signs(random, size, products - 2 * sketched, adapted.dtype)
    rest -= basis @ (basis.T @ rest)
    samples = np.sum(rest * (adapted @ rest), axis=0, dtype=np.float64)
    error = samples.std(ddof=1) / np.sqrt(products - 2 * sketched)
    return Estimate(float(inside + samples.mean()), float(error))
