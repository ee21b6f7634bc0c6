"""The largest or smallest eigenvalues of a curvature operator."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from custom_op.operators.operator import CurvatureOperator

_WHICH = ("LA", "SA", "LM")


class Eigenpairs(NamedTuple):
    """Eigenvalues and their eigenvectors.

    Attributes:
      values: [k], the largest first ("SA": the smallest first; "LM": by magnitude).
      vectors: [P, k], orthonormal columns; `operator.unflatten` gives one the parameters' form.
    """

    values: np.ndarray
    vectors: np.ndarray


def eigenpairs(
    operator: CurvatureOperator,
    count: int = 1,
    which: str = "LA",
    *,
    tolerance: float | None = None,
    basis: int = 64,
    max_iterations: int | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """Returns the outermost eigenvalues, by SciPy's implicitly restarted Lanczos (ARPACK).

    Args:
      operator: Made outside a `tf.function`, its parameters float32 or float64.
      count: How many.
      which: `"LA"` the largest, `"SA"` the smallest (the most negative), `"LM"` the largest in
        magnitude.
      tolerance: The largest residual ‖A v - λ v‖ / |λ|; by default the square root of the dtype's
        epsilon (3e-4 and 1.5e-8). The error of a value that stands alone is of its square.
      basis: How many Lanczos vectors are kept, and so how many products a restart needs; larger
        ones find eigenvalues that stand close together in fewer products.
      max_iterations: How many restarts are allowed; by default 10 P.
      seed: Of the start vector.

    Returns:
      The values with their vectors, as arrays of the parameters' dtype.

    Raises:
      ValueError: If `count` or `which` is none of the possible ones.
      TypeError: If the parameters have several dtypes, or one that NumPy does not have.
      scipy.sparse.linalg.ArpackNoConvergence: If the iterations did not suffice; it holds the
        pairs that converged.
    """
    size = operator.shape[0]
    if not 1 <= count <= size:
        raise ValueError(f"Expected a count from 1 to the number of parameters, {size}: {count}.")
    if which not in _WHICH:
        raise ValueError(f"Expected which to be one of {list(_WHICH)}, got {which!r}.")
    adapted = operator.to_scipy()
    if size <= max(20, 2 * count):
        # ARPACK can't find all, and gains nothing on a small matrix.
        values, vectors = scipy.linalg.eigh(adapted @ np.eye(size, dtype=adapted.dtype))
    else:
        if tolerance is None:
            tolerance = float(np.sqrt(np.finfo(adapted.dtype).eps))
        start = np.random.default_rng(seed).standard_normal(size).astype(adapted.dtype)
        if not np.any(adapted @ start):
            # No matrix but zero takes a random vector to zero, and ARPACK refuses to start there.
            return Eigenpairs(
                np.zeros(count, adapted.dtype), np.eye(size, count, dtype=adapted.dtype)
            )
        values, vectors = scipy.sparse.linalg.eigsh(
            adapted,
            count,
            which=which,
            v0=start,
            ncv=min(size, max(basis, 2 * count + 1)),
            tol=tolerance,
            maxiter=max_iterations,
        )
    keys = {"LA": -values, "SA": values, "LM": -np.abs(values)}
    order = np.argsort(keys[which], kind="stable")[:count]
    return Eigenpairs(values[order], vectors[:, order])
