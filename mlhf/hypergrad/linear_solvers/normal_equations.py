"""Conjugate gradients on AᵀA x = Aᵀb, for systems that are indefinite or not symmetric."""

from __future__ import annotations

import tensorflow as tf

from mlhf.checks.arguments import check_count, check_number
from mlhf.hypergrad.linear_solvers import system as systems
from mlhf.hypergrad.linear_solvers.system import Solved, Solver, System
from mlhf.optimizers import conjugate_gradient


class NormalEquations(Solver):
    """Minimises ‖A x - b‖² by conjugate gradients.

    It takes twice as many products per iteration as `ConjugateGradient`, and the condition number
    is squared. Its result at an indefinite Hessian solves the linear system; whether the implicit
    function theorem means anything at such weights is another question.
    """

    def __init__(self, max_iterations: int = 200, tolerance: float = 1e-8, damping: float = 0.0):
        """Sets when the solver stops.

        Args:
          max_iterations: The largest number of iterations, of two products each.
          tolerance: The norm ‖Aᵀ(b - A x)‖, relative to ‖Aᵀb‖, at which the solver stops; rounding
            may stop it before.
          damping: The number added to the diagonal of A, at least 0.

        Raises:
          ValueError: If a number is out of its range.
        """
        self.max_iterations = check_count("max_iterations", max_iterations)
        self.tolerance = check_number("tolerance", tolerance, at_least=0)
        self.damping = check_number("damping", damping, at_least=0)

    def solve(self, system: System, b: tf.Tensor, x0: tf.Tensor | None = None) -> Solved:
        """See the base class."""
        solved = systems.zero(b)
        if solved is not None:
            return solved
        system = system.damped(self.damping)
        transposed = system.transposed or system.matvec
        right = transposed(b)
        if not tf.norm(right):
            raise systems.LinearSolveError(
                "Expected a right-hand side that the system can reach, got one in the null space "
                "of the Hessian: the training loss does not determine these weights; add damping."
            )
        # Once rounding dominates the residual, the iteration blows up along the null space.
        floor = 8 * float(tf.experimental.numpy.finfo(b.dtype.as_numpy_dtype).eps)
        solution = conjugate_gradient.conjugate_gradient(
            lambda v: transposed(system.matvec(v)),
            right,
            x0=x0,
            max_iterations=self.max_iterations,
            tolerance=max(self.tolerance, floor) if self.tolerance else 0.0,
        )
        reason = conjugate_gradient.REASONS[int(solution.reason)]
        solved = systems.report(system, b, solution.x, int(solution.iterations), reason)
        left = transposed(b - system.matvec(solution.x))
        return solved._replace(shortfall=float(tf.norm(left)) / float(tf.norm(right)))
