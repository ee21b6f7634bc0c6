"""The fixed-point iteration x ← x - α (A x - b)."""

from __future__ import annotations

import tensorflow as tf

from mlhf.checks.arguments import check_count, check_number
from mlhf.hypergrad.linear_solvers import system as systems
from mlhf.hypergrad.linear_solvers.neumann import check_contracts, step_of
from mlhf.hypergrad.linear_solvers.system import Solved, Solver, System


class FixedPoint(Solver):
    """Iterates the adjoint of gradient descent on the training loss (Grazzi et al. 2020).

    K + 1 iterations from zero are `Neumann` with K terms; this solver also takes a start `x0`, and
    stops at a tolerance.
    """

    def __init__(
        self,
        max_iterations: int = 100,
        step: float | None = None,
        tolerance: float = 1e-6,
        damping: float = 0.0,
    ):
        """Sets when the solver stops.

        Args:
          max_iterations: The largest number of iterations, of one product each.
          step: α, below 2 / λ_max. By default 0.9 / λ_max, estimated by 20 more products.
          tolerance: The residual, relative to ‖b‖, at which the solver stops.
          damping: The number added to the diagonal, at least 0.

        Raises:
          ValueError: If a number is out of its range.
        """
        self.max_iterations = check_count("max_iterations", max_iterations)
        self.step = None if step is None else check_number("step", step, above=0)
        self.tolerance = check_number("tolerance", tolerance, at_least=0)
        self.damping = check_number("damping", damping, at_least=0)

    def solve(self, system: System, b: tf.Tensor, x0: tf.Tensor | None = None) -> Solved:
        """See the base class; raises if the iteration diverges."""
        solved = systems.zero(b)
        if solved is not None:
            return solved
        system = system.damped(self.damping)
        step = step_of(self.step, system, b)
        x = tf.zeros_like(b) if x0 is None else tf.convert_to_tensor(x0)
        residual = b if x0 is None else b - system.matvec(x)
        enough = self.tolerance * tf.norm(b)
        for k in range(self.max_iterations):
            if tf.norm(residual) <= enough:
                return systems.report(system, b, x, k, "converged")
            x = x + step * residual
            if k + 1 < self.max_iterations:
                product = system.matvec(residual)
                new = residual - step * product
                name = type(self).__name__
                check_contracts(name, residual, product, new, b, step, k + 1, self.damping)
                residual = new
        solved = systems.report(system, b, x, self.max_iterations, "maximum of iterations")
        if solved.residual <= self.tolerance:
            return solved._replace(reason="converged")
        return solved
