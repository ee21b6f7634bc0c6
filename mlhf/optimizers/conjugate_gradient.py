"""Preconditioned conjugate gradients for symmetric systems (Hestenes and Stiefel 1952)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_count
from mlhf.checks.networks import as_tensors
from mlhf.checks.structures import check_like, kind

# Why an iteration stopped, as `Solution.reason` says it.
RUNNING_OUT = 0
CONVERGED = 1
NEGATIVE_CURVATURE = 2
NOT_FINITE = 3
REASONS = ("maximum of iterations", "converged", "negative curvature", "not finite")

PAPER_FLOOR = 1e-6


class Solution(NamedTuple):
    """What `conjugate_gradient` returns."""

    x: Any  # the solution, in the structure of b
    residual: Any  # b - A x, by the recursion
    iterations: tf.Tensor  # int32: products with A used in the iterations
    reason: tf.Tensor  # int32: an index into REASONS


def conjugate_gradient(
    matvec: Callable[[Any], Any],
    b: Any,
    *,
    x0: Any = None,
    preconditioner: Any = None,
    max_iterations: int = 10,
    tolerance: float | None = None,
    guards: str = "relative",
) -> Solution:
    """Solves A x = b for a symmetric positive semidefinite A.

    Guards are relative by default: the system is solved in units of ‖b‖, the iteration stops when
    ‖r‖ <= tolerance ‖b‖, and a direction with <p, A p> <= 0 stops it with what it has
    (`NEGATIVE_CURVATURE`). With `guards="paper"` it does as Chen et al. 2018 (arXiv 1805.08462):
    α = ρ / max(<p, A p>, 1e-6), β = ρ' / max(ρ, 1e-6), and a stop under ‖r‖ < 1e-6, all absolute;
    on badly scaled systems these are wrong.

    Args:
      matvec: The product with A; takes and returns a structure like b.
      b: A structure of floating tensors of one dtype.
      x0: Where to start; zeros by default.
      preconditioner: A positive diagonal in the structure of b, an approximation of A's inverse,
        or a function that applies one. None for the identity.
      max_iterations: At least 1.
      tolerance: Relative for `guards="relative"` (default: the dtype's epsilon), absolute for
        `"paper"` (default 1e-6).
      guards: `"relative"` or `"paper"`.

    Returns:
      A `Solution`. A zero b, an exact start and negative curvature are ordinary cases.

    Raises:
      TypeError: If `matvec` is no function, or `b`, `x0` or what a function returns no tensors.
      ValueError: If `max_iterations`, `tolerance` or `guards` make no sense, dtypes are mixed or
        not floating, or `x0`, `preconditioner` or a product are not like `b`.
    """
    max_iterations = check_count("max_iterations", max_iterations)
    if guards not in ("relative", "paper"):
        raise ValueError(f'Expected guards="relative" or "paper", got {guards!r}.')
    if tolerance is not None and not (tf.is_tensor(tolerance) or tolerance >= 0):
        raise ValueError(f"Expected a tolerance of at least 0, got {tolerance!r}.")
    if not callable(matvec) or isinstance(matvec, type):
        raise TypeError(
            f"Expected a function for the product with A, matvec(v), got {kind(matvec)}; a matrix "
            "M is lambda v: tf.linalg.matvec(M, v)."
        )
    b = as_tensors("b", b)
    dtype = _dtype_of(b)
    remedy = "it has the structure, shapes and dtype of b"
    if x0 is not None:
        x0 = tf.nest.pack_sequence_as(b, check_like("x0", x0, b, remedy))
    if preconditioner is not None and not callable(preconditioner):
        diagonal = check_like("a preconditioner", preconditioner, b, remedy)
    floor = tf.constant(PAPER_FLOOR, dtype)
    relative = guards == "relative"
    if tolerance is None:
        tolerance = _epsilon(dtype) if relative else PAPER_FLOOR

    def pack(leaves):
        return tf.nest.pack_sequence_as(b, leaves)

    def apply(operator, leaves):
        return check_like("a product", operator(pack(leaves)), b, remedy)

    precondition: Callable[[list[tf.Tensor]], list[tf.Tensor]]
    if preconditioner is None:
        precondition = list
    elif callable(preconditioner):
        precondition = lambda r: apply(preconditioner, r)  # noqa: E731
    else:
        precondition = lambda r: [d * leaf for d, leaf in zip(diagonal, r, strict=True)]  # noqa: E731

    right = tf.nest.flatten(b)
    scale = tf.ones([], dtype)
    if relative:
        # In units of the largest entry of b first, so that its norm can't over- or underflow.
        largest = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(leaf)) for leaf in right]))
        scale = tf.where(largest > 0, largest, tf.ones_like(largest))
        right = [leaf / scale for leaf in right]
        tolerance = tolerance * tf.sqrt(_dot(right, right))
    if x0 is None:
        x = [tf.zeros_like(leaf) for leaf in right]
        r = right
    else:
        x = [tf.convert_to_tensor(leaf) / scale for leaf in tf.nest.flatten(x0)]
        r = [u - v for u, v in zip(right, apply(matvec, x), strict=True)]
        if relative:
            # In units of a tiny b a start may be too large for its residual's norm: none, then.
            start = tf.nest.flatten(x0)
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(leaf)) for leaf in start])
            too_large = finite & ~tf.math.is_finite(_dot(r, r))
            x = [tf.where(too_large, tf.zeros_like(leaf), leaf) for leaf in x]
            r = [tf.where(too_large, other, leaf) for leaf, other in zip(r, right, strict=True)]
    y = precondition(r)

    def keep_going(i, reason, x, r, p, rho):
        del x, p
        norm = tf.sqrt(_dot(r, r))
        unfinished = norm > tolerance if relative else norm >= tolerance
        return (i < max_iterations) & (reason == RUNNING_OUT) & unfinished

    def iterate(i, reason, x, r, p, rho):
        product = apply(matvec, p)
        curvature = _dot(p, product)
        if relative:
            alpha = rho / tf.where(curvature > 0, curvature, tf.ones_like(curvature))
            # A zero direction with a residual left means a semidefinite preconditioner.
            reason = tf.where(curvature > 0, reason, NEGATIVE_CURVATURE)
        else:
            alpha = rho / tf.maximum(curvature, floor)
        new_x = _axpy(alpha, p, x)
        new_r = _axpy(-alpha, product, r)
        y = precondition(new_r)
        new_rho = _dot(new_r, y)
        if relative:
            beta = new_rho / tf.where(rho > 0, rho, tf.ones_like(rho))
        else:
            beta = new_rho / tf.maximum(rho, floor)
        new_p = _axpy(beta, p, y)
        finite = tf.math.is_finite(new_rho) & tf.math.is_finite(alpha)
        reason = tf.where(finite, reason, NOT_FINITE)
        go = reason == RUNNING_OUT
        return (
            i + 1,
            reason,
            _choose(go, new_x, x),
            _choose(go, new_r, r),
            _choose(go, new_p, p),
            tf.where(go, new_rho, rho),
        )

    iterations, reason, x, r, _, _ = tf.while_loop(
        keep_going,
        iterate,
        (0, RUNNING_OUT, x, r, y, _dot(r, y)),
        maximum_iterations=max_iterations,
    )
    norm = tf.sqrt(_dot(r, r))
    converged = norm <= tolerance if relative else norm < tolerance
    reason = tf.where((reason == RUNNING_OUT) & converged, CONVERGED, reason)
    # A right-hand side or a start that is not finite runs no iteration.
    reason = tf.where(tf.math.is_finite(norm), reason, NOT_FINITE)
    return Solution(
        pack([scale * leaf for leaf in x]),
        pack([scale * leaf for leaf in r]),
        iterations,
        reason,
    )


def _dtype_of(b: Any) -> tf.DType:
    dtypes = {leaf.dtype for leaf in tf.nest.flatten(b)}
    if len(dtypes) != 1 or not next(iter(dtypes)).is_floating:
        raise ValueError(
            "Expected b as a structure of floating tensors of one dtype, got "
            f"{sorted(dtype.name for dtype in dtypes)}."
        )
    return dtypes.pop()


def _epsilon(dtype: tf.DType) -> float:
    return float(np.finfo(dtype.as_numpy_dtype).eps)


def _dot(u: list[tf.Tensor], v: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([tf.reduce_sum(a * b) for a, b in zip(u, v, strict=True)])


def _axpy(a: tf.Tensor, x: list[tf.Tensor], y: list[tf.Tensor]) -> list[tf.Tensor]:
    return [v + a * u for u, v in zip(x, y, strict=True)]


def _choose(condition, new, old):
    return [tf.where(condition, a, b) for a, b in zip(new, old, strict=True)]
