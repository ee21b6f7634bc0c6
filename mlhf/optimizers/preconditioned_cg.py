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


class Trajectory(NamedTuple):
    """What the derivative of a solution in flat vectors needs; rows past the last one are zero."""

    directions: tf.Tensor  # p_i, [n, P]
    products: tf.Tensor  # A p_i, [n, P]
    rho: tf.Tensor  # <r_i, y_i>, [n + 1]
    curvature: tf.Tensor  # <p_i, A p_i>, [n]
    residual: tf.Tensor  # r_n, [P]
    iterations: tf.Tensor  # int32


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


def solve_recorded(
    matvec: Callable[[tf.Tensor], tf.Tensor],
    r0: tf.Tensor,
    x0: tf.Tensor,
    diagonal: tf.Tensor,
    iterations: int,
    unrolled: bool = False,
) -> tuple[tf.Tensor, Trajectory]:
    """The paper's conjugate gradients on flat vectors, with what their derivative needs.

    Args:
      matvec: The product with A, [P] to [P].
      r0: b - A x0, [P].
      x0: The start, [P].
      diagonal: The preconditioner, [P].
      iterations: At most so many.
      unrolled: Whether the iterations stand in the graph one by one instead of in a loop.

    Returns:
      The solution [P], and the trajectory.
    """
    dtype = r0.dtype
    floor = tf.constant(PAPER_FLOOR, dtype)

    def keep_going(i, x, r, p, rho):
        del x, p, rho
        return (i < iterations) & (tf.norm(r) >= floor)

    def iterate(i, x, r, p, rho):
        product = matvec(p)
        x, r, next_p, new_rho, curvature = _iteration(diagonal, product, x, r, p, rho)
        return (i + 1, x, r, next_p, new_rho), (p, product, rho, curvature)

    y0 = diagonal * r0
    start = (tf.constant(0), x0, r0, y0, tf.tensordot(r0, y0, 1))
    nothing = (tf.zeros_like(r0), tf.zeros_like(r0), tf.zeros([], dtype), tf.zeros([], dtype))
    if unrolled:
        state, rows = start, []
        for _ in range(iterations):
            state, row = tf.cond(
                keep_going(*state), lambda s=state: iterate(*s), lambda s=state: (s, nothing)
            )
            rows.append(row)
        stacks = [tf.stack(column) for column in zip(*rows, strict=True)]
    else:
        arrays = [
            tf.TensorArray(dtype, size=iterations, element_shape=value.shape).unstack(
                tf.zeros([iterations, *value.shape], dtype)
            )
            for value in nothing
        ]

        def write(state, arrays):
            new, row = iterate(*state)
            return new, [
                array.write(state[0], value) for array, value in zip(arrays, row, strict=True)
            ]

        state, arrays = tf.while_loop(
            lambda state, _: keep_going(*state),
            write,
            (start, arrays),
            maximum_iterations=iterations,
        )
        stacks = [array.stack() for array in arrays]
    used, x, r, _, rho = state
    directions, products, rhos, curvatures = stacks
    # ρ after the last iteration stands behind the others, at the position `used`.
    rhos = tf.concat([rhos, [0]], 0) + rho * tf.one_hot(used, iterations + 1, dtype=dtype)
    return x, Trajectory(directions, products, rhos, curvatures, r, used)


def solution_vjp(
    matvec: Callable[[tf.Tensor], tf.Tensor],
    diagonal: tf.Tensor,
    trajectory: Trajectory,
    d_x: tf.Tensor,
    unrolled: bool = False,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Takes the cotangent of a solution back through the iterations that led to it.

    One product an iteration, none for the last: what the last residual leads to is not used. A
    symmetric A and its entries' derivatives come back as a sum of outer products; here only its
    diagonal part δ, A = G + diag(δ), is asked for.

    Args:
      matvec: The product with A.
      diagonal: The preconditioner, [P].
      trajectory: From `solve_recorded`.
      d_x: The cotangent of x_n, [P].
      unrolled: As for `solve_recorded`.

    Returns:
      The cotangents of the preconditioner, of δ within the iterations, and of r0, each [P]. That
      of x0 at fixed r0 is `d_x`.
    """
    used = trajectory.iterations
    zero = tf.zeros_like(d_x)

    def back(i, *state):
        row = [trajectory.directions[i], trajectory.products[i], trajectory.rho[i]]
        row += [trajectory.rho[i + 1], trajectory.curvature[i]]
        return _iteration_vjp(d_x, diagonal, *row, *state)

    def last(i, *state):
        # Nothing but x_n is used of the last iteration, so d(A p) is zero and needs no product.
        d_p, _, d_r, d_rho, d_diagonal, d_delta, r = back(i, *state)
        return i - 1, d_r, d_p, d_rho, d_diagonal, d_delta, r

    def earlier(i, *state):
        d_p, d_product, d_r, d_rho, d_diagonal, d_delta, r = back(i, *state)
        return i - 1, d_r, d_p + matvec(d_product), d_rho, d_diagonal, d_delta, r

    state = (used - 1, zero, zero, tf.zeros([], d_x.dtype), zero, zero, trajectory.residual)
    count = trajectory.directions.shape[0]
    state = tf.cond(used > 0, lambda: last(*state), lambda: state)
    if unrolled:
        for _ in range(count - 1):
            state = tf.cond(state[0] >= 0, lambda s=state: earlier(*s), lambda s=state: s)
    elif count > 1:
        state = tf.while_loop(lambda i, *_: i >= 0, earlier, state, maximum_iterations=count - 1)
    _, d_r, d_p, d_rho, d_diagonal, d_delta, r = state
    # p_0 = P r_0, ρ_0 = <r_0, P r_0>.
    d_diagonal = d_diagonal + d_p * r + d_rho * r * r
    d_r = d_r + diagonal * (d_p + 2 * d_rho * r)
    return d_diagonal, d_delta, d_r


@tf.function(jit_compile=True, autograph=False)
def _iteration(diagonal, product, x, r, p, rho):
    """What follows a product with A in one iteration, fused."""
    floor = tf.constant(PAPER_FLOOR, x.dtype)
    curvature = tf.reduce_sum(p * product)
    alpha = rho / tf.maximum(curvature, floor)
    x = x + alpha * p
    r = r - alpha * product
    y = diagonal * r
    new_rho = tf.reduce_sum(r * y)
    beta = new_rho / tf.maximum(rho, floor)
    return x, r, y + beta * p, new_rho, curvature


@tf.function(jit_compile=True, autograph=False)
def _iteration_vjp(
    d_x, diagonal, p, product, rho, new_rho, curvature, d_r, d_p, d_rho, d_diagonal, d_delta, r
):
    """One iteration backwards, up to the product with A; one pass over memory under XLA.

    d_r, d_p and d_rho are the cotangents of r_{i+1}, p_{i+1} and ρ_{i+1}; r is r_{i+1}, which the
    recursion takes back to r_i.
    """
    floor = tf.constant(PAPER_FLOOR, d_x.dtype)
    floored_rho, floored = tf.maximum(rho, floor), tf.maximum(curvature, floor)
    alpha, beta = rho / floored, new_rho / floored_rho
    # p_{i+1} = P r_{i+1} + β p_i; ρ_{i+1} = <r_{i+1}, P r_{i+1}>; β = ρ_{i+1} / max(ρ_i, ε)
    d_beta = tf.reduce_sum(d_p * p)
    d_new_rho = d_rho + d_beta / floored_rho
    d_diagonal = d_diagonal + d_p * r + d_new_rho * r * r
    d_r = d_r + diagonal * (d_p + 2 * d_new_rho * r)
    d_old_p = beta * d_p
    d_old_rho = tf.where(rho > floor, -d_beta * beta / floored_rho, 0)
    # r_{i+1} = r_i - α A p; x_{i+1} = x_i + α p; α = ρ_i / max(<p, A p>, ε)
    d_alpha = tf.reduce_sum(d_x * p) - tf.reduce_sum(d_r * product)
    d_old_rho = d_old_rho + d_alpha / floored
    d_curvature = tf.where(curvature > floor, -d_alpha * alpha / floored, 0)
    d_product = -alpha * d_r
    d_old_p = d_old_p + alpha * d_x + 2 * d_curvature * product
    d_delta = d_delta + (d_product + d_curvature * p) * p
    return d_old_p, d_product, d_r, d_old_rho, d_diagonal, d_delta, r + alpha * product


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
