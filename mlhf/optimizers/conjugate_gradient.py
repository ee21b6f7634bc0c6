"""Preconditioned conjugate gradients for symmetric systems (Hestenes and Stiefel 1952)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_count
from mlhf.checks.networks import as_tensors
from mlhf.checks.structures import check_like, kind

# The reasons why an iteration stopped, the values of `Solution.reason`.
RUNNING_OUT = 0
CONVERGED = 1
NEGATIVE_CURVATURE = 2
NOT_FINITE = 3
REASONS = ("maximum of iterations", "converged", "negative curvature", "not finite")

PAPER_FLOOR = 1e-6
_REMEDY = "it has the structure, shapes and dtype of b"


class Solution(NamedTuple):
    """The result of `conjugate_gradient`."""

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
    ‖r‖ <= tolerance ‖b‖, and a direction with <p, A p> <= 0 ends it at the current iterate
    (`NEGATIVE_CURVATURE`). With `guards="paper"` they are those of Chen et al. 2018 (arXiv
    1805.08462): α = ρ / max(<p, A p>, 1e-6), β = ρ' / max(ρ, 1e-6), and a stop at ‖r‖ < 1e-6, all
    absolute; on badly scaled systems these are wrong.

    Args:
      matvec: The product with A, a function from a structure like b to another.
      b: A structure of floating tensors of one dtype.
      x0: The start; zeros by default.
      preconditioner: A positive diagonal in the structure of b, an approximation of A's inverse,
        or a function that applies one. None for the identity.
      max_iterations: The largest number of iterations, at least 1.
      tolerance: The tolerance for ‖r‖: relative for `guards="relative"` (default: the dtype's
        epsilon), absolute for `"paper"` (default 1e-6).
      guards: The kind of guards, `"relative"` or `"paper"`.

    Returns:
      A `Solution`. A zero b, an exact start and negative curvature are ordinary cases.

    Raises:
      TypeError: If `matvec` is not a function, or `b`, `x0` or a function's result has leaves that
        are not tensors.
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
    system = _System(matvec, as_tensors("b", b), x0, preconditioner)
    rule: _Relative = (_Relative if guards == "relative" else _Paper)(system.dtype, tolerance)
    right, scale = rule.scaled(tf.nest.flatten(system.b))
    x, r = system.start(right, scale, guards == "relative")
    iterations, reason, x, r = _iterate(system, rule, x, r, max_iterations)
    return Solution(
        system.pack([scale * leaf for leaf in x]),
        system.pack([scale * leaf for leaf in r]),
        iterations,
        reason,
    )


def _iterate(
    system: _System, rule: _Relative, x: list[tf.Tensor], r: list[tf.Tensor], max_iterations: int
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
    """Returns the number of iterations, the reason why they stopped, x, and r."""
    y = system.precondition(r)

    def keep_going(
        i: tf.Tensor,
        reason: tf.Tensor,
        x: list[tf.Tensor],
        r: list[tf.Tensor],
        p: list[tf.Tensor],
        rho: tf.Tensor,
    ) -> tf.Tensor:
        del x, p
        go_on = rule.is_unfinished(tf.sqrt(_dot(r, r)))
        return (i < max_iterations) & (reason == RUNNING_OUT) & go_on

    def iterate(
        i: tf.Tensor,
        reason: tf.Tensor,
        x: list[tf.Tensor],
        r: list[tf.Tensor],
        p: list[tf.Tensor],
        rho: tf.Tensor,
    ) -> tuple[Any, ...]:
        product = system.product(p)
        curvature = _dot(p, product)
        alpha = rule.over(rho, curvature)
        reason = rule.reason(reason, curvature)
        new_x = _axpy(alpha, p, x)
        new_r = _axpy(-alpha, product, r)
        y = system.precondition(new_r)
        new_rho = _dot(new_r, y)
        new_p = _axpy(rule.over(new_rho, rho), p, y)
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
    is_converged = rule.is_converged(norm)
    reason = tf.where((reason == RUNNING_OUT) & is_converged, CONVERGED, reason)
    # A right-hand side or a start that is not finite runs no iteration.
    return iterations, tf.where(tf.math.is_finite(norm), reason, NOT_FINITE), x, r


class _System:
    """A x = b, its start and its preconditioner, on flat lists of tensors."""

    def __init__(self, matvec: Callable[[Any], Any], b: Any, x0: Any, preconditioner: Any) -> None:
        self.b, self.dtype = b, _dtype_of(b)
        self._matvec, self._preconditioner = matvec, preconditioner
        self._x0: list[tf.Tensor] | None = None
        if x0 is not None:
            self._x0 = check_like("x0", x0, b, _REMEDY)
        if preconditioner is not None and not callable(preconditioner):
            self._diagonal = check_like("a preconditioner", preconditioner, b, _REMEDY)

    def pack(self, leaves: list[tf.Tensor]) -> Any:
        """Returns leaves in the structure of b."""
        return tf.nest.pack_sequence_as(self.b, leaves)

    def product(self, leaves: list[tf.Tensor]) -> list[tf.Tensor]:
        """Returns A v."""
        return self._apply(self._matvec, leaves)

    def precondition(self, r: list[tf.Tensor]) -> list[tf.Tensor]:
        """Returns P r."""
        if self._preconditioner is None:
            return list(r)
        if callable(self._preconditioner):
            return self._apply(self._preconditioner, r)
        return [d * leaf for d, leaf in zip(self._diagonal, r, strict=True)]

    def start(
        self, right: list[tf.Tensor], scale: tf.Tensor, relative: bool
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Returns the start and its residual, in units of `scale`."""
        if self._x0 is None:
            return [tf.zeros_like(leaf) for leaf in right], right
        x = [tf.convert_to_tensor(leaf) / scale for leaf in self._x0]
        r = [u - v for u, v in zip(right, self.product(x), strict=True)]
        if relative:
            # In units of a tiny b, a start may be too large for its residual's norm: start at zero.
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(leaf)) for leaf in self._x0])
            too_large = finite & ~tf.math.is_finite(_dot(r, r))
            x = [tf.where(too_large, tf.zeros_like(leaf), leaf) for leaf in x]
            r = [tf.where(too_large, other, leaf) for leaf, other in zip(r, right, strict=True)]
        return x, r

    def _apply(self, operator: Callable[[Any], Any], leaves: list[tf.Tensor]) -> list[tf.Tensor]:
        return check_like("a product", operator(self.pack(leaves)), self.b, _REMEDY)


class _Relative:
    """When the iteration stops, and its guards against dividing by zero, in units of b."""

    def __init__(self, dtype: tf.DType, tolerance: Any) -> None:
        self._tolerance = _epsilon(dtype) if tolerance is None else tolerance

    def scaled(self, right: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns b in the units to compute in, and the unit."""
        # The largest entry of b first, so that its norm can't over- or underflow.
        largest = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(leaf)) for leaf in right]))
        scale = tf.where(largest > 0, largest, tf.ones_like(largest))
        right = [leaf / scale for leaf in right]
        self._tolerance = self._tolerance * tf.sqrt(_dot(right, right))
        return right, scale

    def is_unfinished(self, norm: tf.Tensor) -> tf.Tensor:
        """Returns whether a residual's norm is too large to stop; False for NaN."""
        return norm > self._tolerance

    def is_converged(self, norm: tf.Tensor) -> tf.Tensor:
        """Returns whether it is small enough; False for NaN, too."""
        return norm <= self._tolerance

    def over(self, numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
        """Returns α or β."""
        return numerator / tf.where(denominator > 0, denominator, tf.ones_like(denominator))

    def reason(self, reason: tf.Tensor, curvature: tf.Tensor) -> tf.Tensor:
        """Returns the reason to stop at a direction with a curvature, if there is one."""
        # A zero direction with a residual left means a semidefinite preconditioner.
        return tf.where(curvature > 0, reason, NEGATIVE_CURVATURE)


class _Paper(_Relative):
    """The absolute guards of Chen et al. 2018."""

    def __init__(self, dtype: tf.DType, tolerance: Any) -> None:
        super().__init__(dtype, PAPER_FLOOR if tolerance is None else tolerance)
        self._dtype, self._floor = dtype, tf.constant(PAPER_FLOOR, dtype)

    def scaled(self, right: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        return right, tf.ones([], self._dtype)

    def is_unfinished(self, norm: tf.Tensor) -> tf.Tensor:
        return norm >= self._tolerance

    def is_converged(self, norm: tf.Tensor) -> tf.Tensor:
        return norm < self._tolerance

    def over(self, numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
        return numerator / tf.maximum(denominator, self._floor)

    def reason(self, reason: tf.Tensor, curvature: tf.Tensor) -> tf.Tensor:
        return reason


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


def _choose(condition: tf.Tensor, new: list[tf.Tensor], old: list[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.where(condition, a, b) for a, b in zip(new, old, strict=True)]
