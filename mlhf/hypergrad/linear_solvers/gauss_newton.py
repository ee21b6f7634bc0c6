"""Conjugate gradients on the damped Gauss-Newton matrix instead of the Hessian."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

import custom_op
from custom_op.graphs.gradient_paths import Paths, refuse_missing
from mlhf.checks.arguments import check_count, check_number
from mlhf.hypergrad.linear_solvers.conjugate_gradient import solve_definite
from mlhf.hypergrad.linear_solvers.system import Solved, Solver, System
from mlhf.hypergrad.problem import call_named


class GaussNewton(Solver):
    """Solves (Jᵀ H_ℓ J + H_R + damping · I) x = b by conjugate gradients.

    Never indefinite, for a convex loss ℓ of the network's outputs and a convex R, wherever the
    weights are; equal to the Hessian where the network is linear or its residuals vanish. The
    damping keeps weights that the data does not determine from moving far.
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
          outputs: `(weights, hyperparameters, step)` to the network's outputs and the targets. It
            gets `batch` and `seed` where it has parameters of these names, as the training loss
            does.
          loss: Of `custom_op.losses`, or its name.
          damping: At least 0.
          regularizer: `(weights, hyperparameters)` to R, what the training loss adds; its own
            Hessian is used.
          max_iterations: At most so many products.
          tolerance: Stop at a residual of so much of ‖b‖.

        Raises:
          ValueError: If a number is out of its range or the loss is not known.
        """
        self._outputs, self._loss = outputs, custom_op.losses.get(loss)
        self._regularizer = regularizer
        self.damping = check_number("damping", damping, at_least=0)
        self.max_iterations = check_count("max_iterations", max_iterations)
        self.tolerance = check_number("tolerance", tolerance, at_least=0)

    def product(self, training, vector, direction, rows, step, seed):
        """See the base class."""
        weights, vectors = training.flat.unflatten(vector), training.flat.unflatten(direction)
        batch = training.batches(step, seed) if training.batches is not None else None
        targets = []

        def network(leaves):
            z, y = call_named(self._outputs, {"batch": batch, "seed": seed}, leaves, rows, step)
            targets.append(y)
            return z

        # Once for the targets alone; what is traced twice is pruned.
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

    def solve(self, system: System, b, x0=None) -> Solved:
        """See the base class."""
        return solve_definite(
            type(self).__name__, system, b, x0, self.max_iterations, self.tolerance, self.damping
        )
