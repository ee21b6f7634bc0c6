"""Conjugate gradients on the damped Gauss-Newton matrix instead of the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

import custom_op
from custom_op.graphs.gradient_paths import Paths, refuse_missing
from mlhf.checks.arguments import check_count, check_number
from mlhf.hypergrad.linear_solvers.conjugate_gradient import solve_definite
from mlhf.hypergrad.linear_solvers.system import Solved, Solver, System
from mlhf.hypergrad.problem import call_named

if TYPE_CHECKING:
    from mlhf.hypergrad.training import Training


class GaussNewton(Solver):
    """Solves (Jᵀ H_ℓ J + H_R + damping · I) x = b by conjugate gradients.

    The matrix is never indefinite for a convex loss ℓ of the network's outputs and a convex R,
    whatever the weights; it equals the Hessian where the network is linear or its residuals vanish.
    The damping keeps weights that the data does not determine from moving far.
    """

    def __init__(
        self,
        outputs: Callable[..., tuple[tf.Tensor, tf.Tensor]],
        loss: str | custom_op.losses.Loss = "softmax_cross_entropy",
        damping: float = 1e-2,
        regularizer: Callable[..., tf.Tensor] | None = None,
        max_iterations: int = 100,
        tolerance: float = 1e-6,
    ):
        """Describes the network of the training loss.

        Args:
          outputs: A function from `(weights, hyperparameters, step)` to the network's outputs and
            the targets. It gets `batch` and `seed` if it has parameters of these names, as the
            training loss does.
          loss: A loss of `custom_op.losses`, or its name.
          damping: The number added to the diagonal, at least 0.
          regularizer: A function from `(weights, hyperparameters)` to R, the term that the training
            loss adds; its own Hessian is used.
          max_iterations: The largest number of products.
          tolerance: The residual, relative to ‖b‖, at which the solver stops.

        Raises:
          ValueError: If a number is out of its range or the loss is unknown.
        """
        self._outputs, self._loss = outputs, custom_op.losses.get(loss)
        self._regularizer = regularizer
        self.damping = check_number("damping", damping, at_least=0)
        self.max_iterations = check_count("max_iterations", max_iterations)
        self.tolerance = check_number("tolerance", tolerance, at_least=0)

    def product(
        self,
        training: Training,
        vector: tf.Tensor,
        direction: tf.Tensor,
        rows: Any,
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """See the base class."""
        weights, vectors = training.flat.unflatten(vector), training.flat.unflatten(direction)
        batch = training.batches(step, seed) if training.batches is not None else None
        targets = []

        def network(leaves: Any) -> tf.Tensor:
            z, y = call_named(self._outputs, {"batch": batch, "seed": seed}, leaves, rows, step)
            targets.append(y)
            return z

        # This call is for the targets alone; operations that are traced twice are pruned.
        network(weights)
        operator = custom_op.gauss_newton(network, weights, self._loss, targets[0])
        product = training.flat.flatten(operator.matvec(vectors))
        if self._regularizer is None:
            return product
        with tf.GradientTape() as outer:
            outer.watch(vector)
            with tf.GradientTape() as inner:
                inner.watch(vector)
                penalty = self._regularizer(training.flat.unflatten(vector), rows)
            refuse_missing(Paths([vector], [penalty]), ["the weights"], "the regularizer")
            slope = inner.gradient(penalty, vector)
            if slope is not None:
                refuse_missing(Paths([vector], [slope]), ["the weights"], "the regularizer")
        if slope is None:
            return product
        more = outer.gradient(slope, vector, output_gradients=direction)
        return product if more is None else product + more

    def solve(self, system: System, b: tf.Tensor, x0: tf.Tensor | None = None) -> Solved:
        """See the base class."""
        return solve_definite(
            type(self).__name__, system, b, x0, self.max_iterations, self.tolerance, self.damping
        )
