"""A linear system A x = b on flat vectors, the base class of solvers, and their results."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import tensorflow as tf

if TYPE_CHECKING:
    from mlhf.hypergrad.training import Training


# The largest relative error that rounding may cause in a solution.
_LARGEST_ERROR = 0.1


class LinearSolveError(ArithmeticError):
    """Raised when a system is indefinite, or the iteration diverges."""


class Solved(NamedTuple):
    """A solution and how good it is.

    Attributes:
      x: The solution, [P].
      residual: ‖b - A x‖ / ‖b‖, computed from x, with the damping in A; 0 if b is zero.
      iterations: The number of iterations.
      reason: Why the solver stopped.
      shortfall: The number that the solver makes small; None if it is the residual.
    """

    x: tf.Tensor
    residual: float
    iterations: int
    reason: str
    shortfall: float | None = None

    @property
    def remaining(self) -> float:
        """The number that the solver makes small, relative to its start."""
        return self.residual if self.shortfall is None else self.shortfall

    @property
    def converged(self) -> bool:
        """Whether the solver reached its tolerance."""
        return self.reason in _CONVERGED


_CONVERGED = ("converged", "zero right-hand side")


class System(NamedTuple):
    """A matrix by its products.

    Attributes:
      matvec: A function from v [P] to A v [P].
      transposed: A function from v to Aᵀ v; None if A is symmetric.
    """

    matvec: Callable[[tf.Tensor], tf.Tensor]
    transposed: Callable[[tf.Tensor], tf.Tensor] | None = None

    def damped(self, damping: float) -> System:
        """Returns A + damping · I."""
        if not damping:
            return self
        matvec, transposed = self.matvec, self.transposed
        return System(
            lambda v: matvec(v) + damping * v,
            None if transposed is None else lambda v: transposed(v) + damping * v,
        )


class Solver(abc.ABC):
    """A way to solve a system; the constructor's arguments are its settings.

    Attributes:
      largest_remainder: The largest relative remainder of the right-hand side that `implicit`
        accepts from a solver that ran out of iterations.
    """

    @property
    def largest_remainder(self) -> float:
        """A tenth; with `tolerance=0`, which demands all iterations, the whole of it."""
        return 0.1 if getattr(self, "tolerance", 0.0) else 1.0

    def product(
        self,
        training: Training,
        vector: tf.Tensor,
        direction: tf.Tensor,
        rows: Any,
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor | None:
        """Returns the product with the matrix that replaces the Hessian of one step's loss.

        Args:
          training: The training with the loss.
          vector: The weights, [P].
          direction: The vector to multiply, [P].
          rows: The hyperparameters in this step.
          step: The step, an int32 scalar.
          seed: The seed, an int32 scalar.

        Returns:
          The product [P]; None if the matrix is the Hessian itself.
        """
        del training, vector, direction, rows, step, seed
        return None

    @abc.abstractmethod
    def solve(self, system: System, b: tf.Tensor, x0: tf.Tensor | None = None) -> Solved:
        """Solves A x = b, eagerly.

        Args:
          system: The matrix A.
          b: The right-hand side, floating [P].
          x0: The start of an iteration, [P]; zeros by default.

        Returns:
          The solution with its residual. A zero b has the solution zero.

        Raises:
          LinearSolveError: If the system is indefinite and the solver requires otherwise, the
            iteration diverges, or a number is not finite.
        """

    def __repr__(self) -> str:
        settings = ", ".join(f"{name.lstrip('_')}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


def report(system: System, b: tf.Tensor, x: tf.Tensor, iterations: int, reason: str) -> Solved:
    """Returns a solution with its residual.

    Raises:
      LinearSolveError: If the residual is not finite.
    """
    size = float(tf.norm(b))
    left = float(tf.norm(b - system.matvec(x)))
    residual = left / size if size else left
    if residual != residual or residual == float("inf"):
        raise LinearSolveError(
            f"Expected a finite solution, got a residual of {residual} after {iterations} "
            "iterations: the training may have diverged; lower its learning rate, or use float64."
        )
    return Solved(x, residual, iterations, reason)


def check(solver: Solver, solved: Solved, b: tf.Tensor, curvature: float, most: float) -> None:
    """Checks that a solution is one.

    Args:
      solver: The solver, for the error's text.
      solved: The solution.
      b: The right-hand side.
      curvature: The largest curvature of the Hessian that was seen.
      most: The largest relative remainder of the right-hand side without convergence.

    Raises:
      LinearSolveError: If the system is singular to rounding, or too much of b remains.
    """
    name = type(solver).__name__
    epsilon = float(tf.experimental.numpy.finfo(b.dtype.as_numpy_dtype).eps)
    size = float(tf.norm(b))
    inverse = float(tf.norm(solved.x)) * curvature / size if size else 0.0
    # Written so that a NaN raises, too.
    if not inverse * epsilon <= _LARGEST_ERROR:
        raise LinearSolveError(
            f"Expected a Hessian that {b.dtype.name} tells from a singular one, got a solution of "
            f"{name} that is {inverse:.2g} times as large as the right-hand side over the largest "
            f"curvature seen ({curvature:.3g}): training does not determine all weights that the "
            "outer loss depends on. Add damping or a penalty, or take NormalEquations(), whose "
            "solution is the smallest one, or float64."
        )
    if not (solved.converged or solved.remaining <= most):
        raise LinearSolveError(
            f"Expected {name} to leave at most {most:.2g} of the right-hand side, got "
            f"{solved.remaining:.2g} after {solved.iterations} iterations ({solved.reason}). Give "
            "it more iterations (Nystrom: a larger rank or rho), or damping; if so few are meant, "
            "pass implicit(largest_residual=...), or set tolerance=0."
        )


def zero(b: tf.Tensor) -> Solved | None:
    """Returns the solution if the right-hand side is zero, otherwise None."""
    if not all_finite(b):
        raise LinearSolveError(
            "Expected a finite right-hand side (the gradient of the outer loss), got one that is "
            "not: the training may have diverged; lower its learning rate."
        )
    return Solved(tf.zeros_like(b), 0.0, 0, "zero right-hand side") if not tf.norm(b) else None


def all_finite(x: tf.Tensor) -> bool:
    """Returns whether all entries are finite."""
    return bool(tf.reduce_all(tf.math.is_finite(x)))


def curvature_along(v: tf.Tensor, product: tf.Tensor) -> float:
    """Returns <v, A v> / <v, v>."""
    return float(tf.tensordot(v, product, 1) / tf.tensordot(v, v, 1))


def refuse_indefinite(solver: str, curvature: float, damping: float) -> NoReturn:
    """Raises LinearSolveError for a direction of negative curvature, with the remedies."""
    needed = damping - curvature
    raise LinearSolveError(
        f"Expected a positive definite system for {solver}, found a direction of curvature "
        f"{curvature:.3g}: the weights are at no minimum of the training loss. Train longer, damp "
        f"the system (damping above {needed:.2g}), take the Gauss-Newton matrix "
        "(GaussNewton(...)), which is never indefinite, or NormalEquations(), which allows it."
    )
