"""The paper's conjugate gradients on flat vectors, with what their derivative needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.optimizers.conjugate_gradient import PAPER_FLOOR


class Trajectory(NamedTuple):
    """What the derivative of a solution needs; rows after the last iteration are zero."""

    directions: tf.Tensor  # p_i, [n, P]
    products: tf.Tensor  # A p_i, [n, P]
    rho: tf.Tensor  # <r_i, y_i>, [n + 1]
    curvature: tf.Tensor  # <p_i, A p_i>, [n]
    residual: tf.Tensor  # r_n, [P]
    iterations: tf.Tensor  # int32


def solve_recorded(
    matvec: Callable[[tf.Tensor], tf.Tensor],
    r0: tf.Tensor,
    x0: tf.Tensor,
    diagonal: tf.Tensor,
    iterations: int,
    unrolled: bool = False,
) -> tuple[tf.Tensor, Trajectory]:
    """Runs the paper's conjugate gradients, and keeps what their derivative needs.

    Args:
      matvec: The product with A, [P] to [P].
      r0: b - A x0, [P].
      x0: The start, [P].
      diagonal: The preconditioner, [P].
      iterations: The largest number of iterations.
      unrolled: Whether the iterations are written out in the graph instead of looped.

    Returns:
      The solution [P], and the trajectory.
    """
    dtype = r0.dtype
    floor = tf.constant(PAPER_FLOOR, dtype)

    def keep_going(
        i: tf.Tensor, x: tf.Tensor, r: tf.Tensor, p: tf.Tensor, rho: tf.Tensor
    ) -> tf.Tensor:
        del x, p, rho
        return (i < iterations) & (tf.norm(r) >= floor)

    def iterate(
        i: tf.Tensor, x: tf.Tensor, r: tf.Tensor, p: tf.Tensor, rho: tf.Tensor
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
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

        def write(
            state: tuple[Any, ...], arrays: list[tf.TensorArray]
        ) -> tuple[tuple[Any, ...], list[tf.TensorArray]]:
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
    # ρ after the last iteration comes after the others, at the position `used`.
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

    That takes one product per iteration, and none for the last, whose residual leads to nothing.
    The derivative in a symmetric A would be a sum of outer products; only that in its diagonal part
    δ, A = G + diag(δ), is computed.

    Args:
      matvec: The product with A.
      diagonal: The preconditioner, [P].
      trajectory: The trajectory of `solve_recorded`.
      d_x: The cotangent of x_n, [P].
      unrolled: Whether the iterations are written out instead of looped.

    Returns:
      The cotangents of the preconditioner, of δ within the iterations, and of r0, each [P]. The
      cotangent of x0 at fixed r0 is `d_x`.
    """
    used = trajectory.iterations
    zero = tf.zeros_like(d_x)

    def back(i: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        row = [trajectory.directions[i], trajectory.products[i], trajectory.rho[i]]
        row += [trajectory.rho[i + 1], trajectory.curvature[i]]
        return _iteration_vjp(d_x, diagonal, *row, *state)

    def last(i: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Only x_n of the last iteration is used, so d(A p) is zero and needs no product.
        d_p, _, d_r, d_rho, d_diagonal, d_delta, r = back(i, *state)
        return i - 1, d_r, d_p, d_rho, d_diagonal, d_delta, r

    def earlier(i: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
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
def _iteration(
    diagonal: tf.Tensor,
    product: tf.Tensor,
    x: tf.Tensor,
    r: tf.Tensor,
    p: tf.Tensor,
    rho: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """Returns x, r, p, ρ and the curvature after one iteration, given A p; fused under XLA."""
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
    d_x: tf.Tensor,
    diagonal: tf.Tensor,
    p: tf.Tensor,
    product: tf.Tensor,
    rho: tf.Tensor,
    new_rho: tf.Tensor,
    curvature: tf.Tensor,
    d_r: tf.Tensor,
    d_p: tf.Tensor,
    d_rho: tf.Tensor,
    d_diagonal: tf.Tensor,
    d_delta: tf.Tensor,
    r: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """Returns one iteration's cotangents, up to the product with A; one pass over memory under XLA.

    d_r, d_p and d_rho are the cotangents of r_{i+1}, p_{i+1} and ρ_{i+1}; r is r_{i+1}, from which
    the recursion computes r_i.
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
