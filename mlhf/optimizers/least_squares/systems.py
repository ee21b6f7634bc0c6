"""The damped Gauss-Newton system (G + λ I) x = b at one point, in three forms.

With R the root of G and r that of the gradient, G = Rᵀ R and g = Rᵀ r (for squares the residuals
and their Jacobian), the step is -x and

    x = (Rᵀ R + λ I)⁻¹ Rᵀ r = Rᵀ (R Rᵀ + λ I)⁻¹ r:

a system of the size of the parameters or of the residuals, whichever are fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from custom_op.flat_form import FlatForm
from mlhf.objective import LinearizedObjective
from mlhf.optimizers.conjugate_gradient import conjugate_gradient
from mlhf.optimizers.least_squares.gram import gram
from mlhf.optimizers.preconditioners.nystrom import sketch

# The linear algebra of matrices is done in double precision, also for parameters in single.
DTYPE = tf.float64


class Solved(NamedTuple):
    """A solution of the damped system."""

    x: tf.Tensor  # [P]
    residual: tf.Tensor | None  # b - (G + λ I) x, [P]; None for zero
    iterations: tf.Tensor  # int32, of conjugate gradients


class Factored(Protocol):
    """The system with one λ."""

    def direction(self) -> Solved:
        """Returns the solution for the gradient, of which a step takes the opposite."""

    def correction(self, second: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the solution for Jᵀ H z'', for second derivatives z'' of each term's outputs."""


class System(Protocol):
    """The system at a point.

    Attributes:
      gradient: The gradient, [P].
      trace: The trace of G, or an estimate, a scalar.
      least_damping: The smallest λ with which the system can be solved, a scalar.
    """

    gradient: tf.Tensor
    trace: tf.Tensor
    least_damping: tf.Tensor

    def factored(self, damping: tf.Tensor) -> Factored:
        """Returns the system with a λ."""


class Dense:
    """What the two dense forms share: R and r of all terms, with the roots of their weights."""

    def __init__(self, linearized: LinearizedObjective, form: FlatForm, decay: float) -> None:
        """Computes R and r.

        Args:
          linearized: The objective at the point.
          form: The form of flat vectors.
          decay: The coefficient of a regularizer c/2 ‖w‖², 0 for none.
        """
        self.dtype, self.decay = form.dtype, decay
        self.point = tf.cast(form.flatten(linearized.parameters), DTYPE)
        rows, residuals = [], []
        self._roots: list[tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]] = []
        for weight, operator in linearized.weighted_operators:
            scale = tf.sqrt(tf.cast(weight, DTYPE))
            root = operator.root()
            rows.append(scale * tf.cast(root.rows, DTYPE))
            residuals.append(scale * tf.cast(root.residuals, DTYPE))
            self._roots.append((scale, root.output_root))
        self.rows, self.residuals = tf.concat(rows, 0), tf.concat(residuals, 0)
        is_finite = tf.math.is_finite(tf.reduce_sum(self.rows))
        # A factorization of a matrix that is not finite is an error on a CPU.
        self.rows = tf.where(is_finite, self.rows, tf.zeros_like(self.rows))
        self.trace = tf.reduce_sum(tf.square(self.rows)) + decay * form.size
        self.gradient = tf.cast(form.flatten(linearized.gradient()), DTYPE)
        epsilon = float(np.finfo(DTYPE.as_numpy_dtype).eps)
        self.least_damping = 10 * epsilon * tf.where(self.trace > 0, self.trace, 1)

    def pushed(self, second: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns S z'' of all terms, [M]."""
        parts = [
            scale * tf.cast(root(tf.reshape(z, [-1])), DTYPE)
            for (scale, root), z in zip(self._roots, second, strict=True)
        ]
        return tf.concat(parts, 0)


class _ByCholesky:
    """A dense system with one λ."""

    def __init__(self, system: Dense, solve: Callable[[tf.Tensor], tf.Tensor]) -> None:
        self._system, self._solve = system, solve

    def direction(self) -> Solved:
        """Returns the solution for the gradient."""
        return Solved(self._solve(self._system.residuals), None, tf.constant(0))

    def correction(self, second: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the solution for Jᵀ H z''."""
        return self._solve(self._system.pushed(second))


class ResidualSpace(Dense):
    """The system of the size of the residuals, by Cholesky's factorization."""

    def __init__(self, linearized: LinearizedObjective, form: FlatForm, decay: float) -> None:
        super().__init__(linearized, form, decay)
        self._gram = gram(self.rows)
        # What the regularizer adds to the gradient is no Rᵀ r.
        self._rest = decay * self.point

    def factored(self, damping: tf.Tensor) -> Factored:
        """Returns the system with a λ."""
        shift = damping + self.decay
        factor = tf.linalg.cholesky(_shifted(self._gram, shift))

        def inner(right: tf.Tensor) -> tf.Tensor:
            solved = tf.linalg.cholesky_solve(factor, right[:, tf.newaxis])[:, 0]
            return tf.linalg.matvec(self.rows, solved, transpose_a=True)

        if not self.decay:
            return _ByCholesky(self, inner)

        def solve(right: tf.Tensor) -> tf.Tensor:
            if right is not self.residuals:
                return inner(right)
            # Woodbury's identity, for a right-hand side outside the rows' span.
            rest = self._rest
            return inner(right) + (rest - inner(tf.linalg.matvec(self.rows, rest))) / shift

        return _ByCholesky(self, solve)


class ParameterSpace(Dense):
    """The system of the size of the parameters, by Cholesky's factorization."""

    def __init__(self, linearized: LinearizedObjective, form: FlatForm, decay: float) -> None:
        super().__init__(linearized, form, decay)
        self._gram = gram(tf.transpose(self.rows))

    def factored(self, damping: tf.Tensor) -> Factored:
        """Returns the system with a λ."""
        factor = tf.linalg.cholesky(_shifted(self._gram, damping + self.decay))

        def solve(right: tf.Tensor) -> tf.Tensor:
            pulled = tf.linalg.matvec(self.rows, right, transpose_a=True)
            if right is self.residuals:
                pulled += self.decay * self.point
            return tf.linalg.cholesky_solve(factor, pulled[:, tf.newaxis])[:, 0]

        return _ByCholesky(self, solve)


def _shifted(matrix: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    return tf.linalg.set_diag(matrix, tf.linalg.diag_part(matrix) + shift)


class MatrixFree:
    """The system by conjugate gradients, with a Nyström preconditioner made at the point."""

    def __init__(
        self,
        linearized: LinearizedObjective,
        form: FlatForm,
        rank: int,
        iterations: int,
        tolerance: float,
        seed: tf.Tensor,
    ) -> None:
        """Sketches the matrix.

        Args:
          linearized: The objective at the point.
          form: The form of flat vectors.
          rank: The number of products for the preconditioner; 0 for none.
          iterations: The largest number of iterations.
          tolerance: The relative residual at which they stop.
          seed: Two integers, for the preconditioner's random vectors.
        """
        self._linearized, self._form = linearized, form
        self._operators = linearized.weighted_operators
        self._iterations, self._tolerance = iterations, tolerance
        self.gradient = form.flatten(linearized.gradient())
        # One product at least tells the size of λ.
        self._sketch = sketch(self._products, form.size, max(rank, 1), form.dtype, seed)
        self._preconditions = rank > 0
        self.trace = self._sketch.trace
        epsilon = float(np.finfo(form.dtype.as_numpy_dtype).eps)
        self.least_damping = epsilon * tf.where(self.trace > 0, self.trace / form.size, 1)

    def _products(self, rows: tf.Tensor) -> tf.Tensor:
        parts = [
            tf.cast(weight, rows.dtype) * operator.matmat(tf.transpose(rows))
            for weight, operator in self._operators
        ]
        return tf.transpose(tf.add_n(parts))

    def product(self, vector: tf.Tensor) -> tf.Tensor:
        """Returns G v, with the regularizer's Hessian."""
        structure = self._form.unflatten(vector)
        return self._form.flatten(self._linearized.curvature_product(structure))

    def factored(self, damping: tf.Tensor) -> Factored:
        """Returns the system with a λ."""
        return _ByConjugateGradients(self, damping)

    def solve(self, right: tf.Tensor, damping: tf.Tensor) -> Solved:
        """Returns the solution for a right-hand side."""
        solution = conjugate_gradient(
            lambda v: self.product(v) + damping * v,
            right,
            preconditioner=self._sketch.preconditioner(damping) if self._preconditions else None,
            max_iterations=self._iterations,
            tolerance=self._tolerance,
        )
        return Solved(solution.x, solution.residual, solution.iterations)

    def pulled(self, second: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns Jᵀ H z'' of all terms."""
        parts = [
            tf.cast(weight, self._form.dtype) * operator.flatten(operator.pulled_curvature(z))
            for (weight, operator), z in zip(self._operators, second, strict=True)
        ]
        return tf.add_n(parts)


class _ByConjugateGradients:
    """The system with one λ."""

    def __init__(self, system: MatrixFree, damping: tf.Tensor) -> None:
        self._system, self._damping = system, damping

    def direction(self) -> Solved:
        """Returns the solution for the gradient."""
        return self._system.solve(self._system.gradient, self._damping)

    def correction(self, second: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the solution for Jᵀ H z''."""
        return self._system.solve(self._system.pulled(second), self._damping).x
