"""Conjugate gradients on the Hessian, for weights at a minimum."""

from __future__ import annotations

import tensorflow as tf

from mlhf.checks.arguments import check_count, check_number
from mlhf.hypergrad.linear_solvers import system as systems
from mlhf.hypergrad.linear_solvers.system import Solved, Solver, System
from mlhf.optimizers import conjugate_gradient


class ConjugateGradient(Solver):
    """Conjugate gradients (Hestenes and Stiefel 1952) on A + damping · I, positive definite."""

    def __init__(self, max_iterations: int = 100, tolerance: float = 1e-6, damping: float = 0.0):
        """Sets when the solver stops.

        Args:
          max_iterations: The largest number of products; more than P are not needed.
          tolerance: The residual, relative to ‖b‖, at which the solver stops.
          damping: The number added to the diagonal, at least 0.

        Raises:
          ValueError: If a number is out of its range.
        """
        self.max_iterations = check_count("max_iterations", max_iterations)
        self.tolerance = check_number("tolerance", tolerance, at_least=0)
        self.damping = check_number("damping", damping, at_least=0)

    def solve(self, system: System, b: tf.Tensor, x0: tf.Tensor | None = None) -> Solved:
        """See the base class; raises at a direction of negative curvature."""
        return solve_definite(
            type(self).__name__, system, b, x0, self.max_iterations, self.tolerance, self.damping
        )


def solve_definite(
    name: str,
    system: System,
    b: tf.Tensor,
    x0: tf.Tensor | None,
    max_iterations: int,
    tolerance: float,
    damping: float,
) -> Solved:
    """Runs conjugate gradients on a damped system; see `Solver.solve`."""
    solved = systems.zero(b)
    if solved is not None:
        return solved
    system = system.damped(damping)
    lowest = [float("inf")]

    def matvec(v: tf.Tensor) -> tf.Tensor:
        product = system.matvec(v)
        lowest[0] = min(lowest[0], systems.curvature_along(v, product))
        return product

    solution = conjugate_gradient.conjugate_gradient(
        matvec, b, x0=x0, max_iterations=max_iterations, tolerance=tolerance
    )
    reason = conjugate_gradient.REASONS[int(solution.reason)]
    if int(solution.reason) == conjugate_gradient.NEGATIVE_CURVATURE:
        systems.refuse_indefinite(name, lowest[0], damping)
    return systems.report(system, b, solution.x, int(solution.iterations), reason)
