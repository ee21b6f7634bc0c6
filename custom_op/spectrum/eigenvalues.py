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
      values: The eigenvalues [k], the largest first ("SA": the smallest first; "LM": by magnitude).
      vectors: The eigenvectors [P, k], orthonormal columns; `operator.unflatten` gives a column the
        parameters' form.
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
      operator: An operator made outside a `tf.function`, with parameters of float32 or float64.
      count: The number of eigenvalues.
      which: `"LA"` the largest, `"SA"` the smallest (the most negative), `"LM"` the largest in
        magnitude.
      tolerance: The largest residual ‖A v - λ v‖ / |λ|; by default the square root of the dtype's
        epsilon (3e-4 and 1.5e-8). The error of a separated eigenvalue is of the order of its
        square.
      basis: The number of Lanczos vectors kept, and so of products per restart; a larger basis
        finds close eigenvalues in fewer products.
      max_iterations: The largest number of restarts; by default 10 P.
      seed: The seed of the start vector.

    Returns:
      The values with their vectors, as arrays of the parameters' dtype.

    Raises:
      ValueError: If `count` or `which` is out of range.
      TypeError: If the parameters have several dtypes, or one that NumPy does not have.
      scipy.sparse.linalg.ArpackNoConvergence: If the iterations do not suffice; it holds the pairs
        that converged.
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
            # Only the zero matrix maps a random vector to zero, and ARPACK refuses to start there.
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
