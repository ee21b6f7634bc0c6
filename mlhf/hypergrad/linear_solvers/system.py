"""A linear system A x = b on flat vectors, what a solver is, and what it reports."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

if TYPE_CHECKING:
    from mlhf.hypergrad.training import Training


class LinearSolveError(ArithmeticError):
    """A system that the solver can't solve: indefinite, or the iteration diverges."""


class Solved(NamedTuple):
    """A solution and how good it is.

    Attributes:
      x: The solution, [P].
      residual: ‖b - A x‖ / ‖b‖, computed anew from x, with the damping in A; 0 where b is.
      iterations: How many the solver took.
      reason: Why it stopped.
    """

    x: tf.Tensor
    residual: float
    iterations: int
    reason: str


class System(NamedTuple):
    """A matrix by its products.

    Attributes:
      matvec: From v [P] to A v [P].
      transposed: From v to Aᵀ v; None where A is symmetric.
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
    """A way to solve a system; the constructor's arguments are its settings."""

    def product(
        self,
        training: Training,
        vector: tf.Tensor,
        direction: tf.Tensor,
        rows: Any,
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor | None:
        """Returns the product with the matrix that stands for the Hessian in one step's loss.

        Args:
          training: Whose loss it is.
          vector: The weights, [P].
          direction: What is multiplied, [P].
          rows: The hyperparameters in this step.
          step: int32 scalar.
          seed: int32 scalar.

        Returns:
          [P]; None where it is the Hessian itself.
        """
        del training, vector, direction, rows, step, seed
        return None

    @abc.abstractmethod
    def solve(self, system: System, b: tf.Tensor, x0: tf.Tensor | None = None) -> Solved:
        """Solves A x = b, eagerly.

        Args:
          system: A.
          b: [P], floating.
          x0: Where an iteration starts, [P]; zeros by default.

        Returns:
          The solution with its residual. A zero b has the solution zero.

        Raises:
          LinearSolveError: If the system is indefinite where it must not be, the iteration
            diverges, or something is not finite.
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


def zero(b: tf.Tensor) -> Solved | None:
    """Returns the solution for a right-hand side of zero, None for others."""
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


def indefinite(solver: str, curvature: float, damping: float) -> LinearSolveError:
    """Returns the error for a direction of negative curvature, with the remedies."""
    needed = damping - curvature
    return LinearSolveError(
        f"Expected a positive definite system for {solver}, found a direction of curvature "
        f"{curvature:.3g}: the weights are at no minimum of the training loss. Train longer, damp "
        f"the system (damping above {needed:.2g}), take the Gauss-Newton matrix "
        "(GaussNewton(...)), which is never indefinite, or NormalEquations(), which allows it."
    )
