"""The truncated Neumann series of Lorraine et al. 2020 (arXiv 1911.02590)."""

from __future__ import annotations

import tensorflow as tf

from mlhf.checks.arguments import check_count, check_number
from mlhf.hypergrad.linear_solvers import system as systems
from mlhf.hypergrad.linear_solvers.system import LinearSolveError, Solved, Solver, System

_POWER_ITERATIONS = 20
# Rounding alone makes a residual grow by less.
_GROWTH = 1e-3


class Neumann(Solver):
    """x = α Σ (I - α A)ᵏ b over k = 0 ... K, which tends to A⁻¹ b for 0 < α < 2 / λ_max.

    Algorithm 3 of the paper: v ← v - α A v, p ← p + v, both from b; x = α p. The residual after k
    terms is v itself, so that its growth shows divergence. K = 0 gives α b, the approximation that
    takes the Hessian for an identity ("T1-T2").
    """

    def __init__(self, terms: int = 20, step: float | None = None, damping: float = 0.0):
        """Sets the length of the series.

        Args:
          terms: K, the number of products, at least 0.
          step: α. By default 0.9 / λ_max, estimated by 20 more products.
          damping: The number added to the diagonal, at least 0.

        Raises:
          ValueError: If a number is out of its range.
        """
        self.terms = check_count("terms", terms, at_least=0)
        self.step = None if step is None else check_number("step", step, above=0)
        self.damping = check_number("damping", damping, at_least=0)

    def solve(self, system: System, b: tf.Tensor, x0: tf.Tensor | None = None) -> Solved:
        """See the base class; raises if the series diverges. `x0` is not used."""
        del x0
        solved = systems.zero(b)
        if solved is not None:
            return solved
        system = system.damped(self.damping)
        step = step_of(self.step, system, b)
        v = total = b
        for k in range(self.terms):
            product = system.matvec(v)
            new = v - step * product
            check_contracts(type(self).__name__, v, product, new, b, step, k + 1, self.damping)
            v, total = new, total + new
            if not tf.norm(v):
                return systems.report(system, b, step * total, k + 1, "converged")
        return systems.report(system, b, step * total, self.terms, "maximum of iterations")


def step_of(step: float | None, system: System, b: tf.Tensor) -> float:
    """Returns a given step α, or by default 0.9 / λ_max from power iterations."""
    if step is not None:
        return step
    v = tf.random.stateless_normal(b.shape, [0, 0], dtype=b.dtype)
    size = 0.0
    for _ in range(_POWER_ITERATIONS):
        v = system.matvec(v / tf.norm(v))
        size = float(tf.norm(v))
        if not size > 0 or size == float("inf"):
            raise LinearSolveError(
                f"Expected a Hessian with finite products other than zero, got one of norm {size}."
            )
    return 0.9 / size


def check_contracts(
    name: str,
    residual: tf.Tensor,
    product: tf.Tensor,
    new: tf.Tensor,
    b: tf.Tensor,
    step: float,
    iteration: int,
    damping: float,
) -> None:
    """Checks that a residual did not grow from one iteration to the next.

    For a symmetric A, ‖(I - α A) r‖ > ‖r‖ proves an eigenvalue below 0 or above 2/α.

    Raises:
      LinearSolveError: If it grew.
    """
    before, after = float(tf.norm(residual)), float(tf.norm(new))
    # A residual that has converged consists of rounding alone.
    rounding = 100 * float(tf.experimental.numpy.finfo(b.dtype.as_numpy_dtype).eps)
    if after <= max(before * (1 + _GROWTH), rounding * float(tf.norm(b))):
        return
    curvature = systems.curvature_along(residual, product)
    if curvature < 0:
        systems.refuse_indefinite(name, curvature, damping)
    largest = float(tf.norm(product)) / before
    raise LinearSolveError(
        f"Expected the residual of {name} to shrink, but it grew from {before:.3g} to {after:.3g} "
        f"in iteration {iteration}: the step {step:.3g} is over 2 / λ_max, and λ_max is at least "
        f"{largest:.3g}. Take a step under {2 / largest:.2g}, or step=None, which estimates it."
    )
