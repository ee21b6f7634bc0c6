"""Implicit hypergradients, from the optimality of the trained weights alone (Bengio 2000).

Where ∇_w L(w, λ) = 0 holds along the trained weights w(λ), the implicit function theorem gives

    dE/dλ = E_λ - E_wᵀ H⁻¹ ∂_λ ∇_w L:    solve H q = E_w, then dE/dλ = E_λ - ∂_λ <∇_w L, q>

It does not matter how the weights were trained, and hyperparameters of the training alone, such as
its learning rate, have no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_count
from mlhf.hypergrad import arguments, guards
from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.linear_solvers import ConjugateGradient, Solved, Solver, System
from mlhf.hypergrad.linear_solvers import system as systems
from mlhf.hypergrad.methods import assembly, unroll
from mlhf.hypergrad.methods.train import train
from mlhf.hypergrad.result import Result
from mlhf.hypergrad.training import Training

INSTEAD = "reverse, reversible or forward"
_BATCHES = 20
# Relative gradients and residuals up to this one count as zero.
_SMALL = 1e-3
# A gradient larger than this share of H w is far from an optimum.
_FAR = 1e-2


def implicit(
    problem: Any,
    weights: Any,
    hyperparameters: Any,
    *,
    solver: Solver | None = None,
    train_first: bool = True,
    loss_steps: int | None = None,
    start: Any = None,
    seed: int | tf.Tensor = 0,
    largest_residual: float | None = None,
) -> Result:
    """Differentiates the optimum that training tends to, by one linear system.

    The result is exact at a minimum of the training loss and for an exact solution. Elsewhere it is
    off by about the remaining gradient over the smallest curvature; `info` has both residuals, and
    says whether they are small. Results that approximate nothing are refused: a training that moved
    away from its optimum, a system that is singular in the weights' dtype, a solution that leaves
    most of the right-hand side.

    Args:
      problem: A `Problem`, whose dynamics and number of steps bring the weights to the optimum.
      weights: As for `reverse`; with `train_first=False` the trained weights.
      hyperparameters: A mapping, as `Problem` describes, of hyperparameters that the losses read.
      solver: A solver of `mlhf.hypergrad.linear_solvers`; by default `ConjugateGradient()`, which
        refuses an indefinite Hessian.
      train_first: Whether to train for T steps first.
      loss_steps: The number of steps, spread evenly over training, whose mean training loss has the
        optimum: by default 20 if the problem has `batches`, otherwise the first step alone.
      start: The start of the solver's iteration: `info["solution"]` of an earlier result.
      seed: An int32, passed to losses and suppliers with a parameter of that name.
      largest_residual: The largest relative remainder of E_w that a solver which ran out of
        iterations may leave. By default a tenth, and the whole of it for solvers that are meant to
        take few iterations: `Neumann`, `Nystrom`, and those with `tolerance=0`. `float("inf")` for
        any remainder.

    Returns:
      A `Result` without `per_step`. Its `info` has, by outer loss if there are several:
      `residual` (‖E_w - H q‖ / ‖E_w‖), `iterations`, `reason` and `solution` (q); and
      `gradient_norm`, ‖∇_w L‖ at the trained weights, `first_gradient_norm`, before training
      (None without training), `relative_gradient`, the former over the latter (without training,
      over the largest curvature seen times the norm of the weights), and `converged`: whether the
      solver reached its tolerance, or a residual of 1e-3, and the relative gradient is at most
      1e-3 or at the level of rounding.

    Raises:
      LinearSolveError: If the system is indefinite and the solver requires otherwise, singular, not
        solved, or the iteration diverges; the error names the remedy.
      DivergedError: If training, its gradient or the hypergradient is not finite, or training
        ended with a larger gradient than it began with, far from any optimum.
      TypeError: If `solver` is not a solver.
      ValueError: If the arguments don't fit the problem; for hyperparameters of the dynamics or of
        the first weights and for schedules, which have no influence on the optimum, so that their
        gradient would be zero.
    """
    solver = ConjugateGradient() if solver is None else solver
    _check_call(solver)
    training, weights, hyper = bind(problem, weights, hyperparameters)
    _refuse_without_gradient(training)
    steps = loss_steps_of(training, loss_steps)
    seed = arguments.as_seed(seed)
    mean = _MeanLoss(training, solver, hyper, steps, seed)
    loops = unroll.loops_of(training, assembly.keep_of(training, None))
    first_norm, losses = None, None
    if train_first:
        first = unroll.run(training, loops.begin, weights, hyper, seed)["weights"]
        first_norm = float(tf.norm(mean.products(first, tf.zeros_like(first))[0]))
        trained = train(problem, weights, hyper, seed=seed)
        weights, losses = trained.weights, trained.train_loss
    vector = training.flat.flatten(weights)
    outer, _ = unroll.run(training, loops.outer, {"weights": vector}, hyper, seed)

    solved: dict[str, Solved] = {}
    through, direct = [], []
    # Measures the curvature even if nothing is solved because the outer loss is at its minimum.
    mean.product(vector, tf.random.stateless_normal(vector.shape, [0, 1], dtype=vector.dtype))
    gradient = mean.products(vector, tf.zeros_like(vector))[0]
    size = mean.curvature * float(tf.norm(vector))
    moved = mean.curvature * float(tf.norm(vector - first)) if train_first else 0.0
    progress = _Progress(float(tf.norm(gradient)), first_norm, size, moved, vector.dtype)
    progress.check()
    most = solver.largest_remainder if largest_residual is None else largest_residual
    for name in problem.outer_losses:
        system = System(lambda v: mean.product(vector, v))
        begin = start[name] if isinstance(start, Mapping) and name in start else start
        if begin is not None:
            arguments.like_weights(begin, training.flat, "start=")
        solved[name] = solver.solve(
            system,
            outer.in_weights[name],
            None if begin is None else training.flat.flatten(begin),
        )
        systems.check(solver, solved[name], outer.in_weights[name], mean.curvature, most)
        in_leaves = mean.products(vector, solved[name].x)[1]
        through.append([-leaf for leaf in in_leaves])
        direct.append(outer.direct[name])
    hypergradient = assembly.hypergradient(training, [through, direct])
    guards.check_finite(hypergradient, "implicit")

    def by_loss(read: Callable[[Solved], Any]) -> Any:
        return assembly.valid_loss({name: read(solution) for name, solution in solved.items()})

    return Result(
        hypergradient=hypergradient,
        valid_loss=assembly.valid_loss(outer.values),
        weights=weights,
        train_loss=losses,
        hyperparameters=hyper,
        method="implicit",
        info={
            "residual": by_loss(lambda solution: solution.residual),
            "iterations": by_loss(lambda solution: solution.iterations),
            "reason": by_loss(lambda solution: solution.reason),
            "solution": by_loss(lambda solution: training.flat.unflatten(solution.x)),
            "gradient_norm": progress.norm,
            "first_gradient_norm": first_norm,
            "relative_gradient": progress.relative,
            "converged": progress.converged
            and all(s.converged or s.remaining <= _SMALL for s in solved.values()),
        },
    )


def _check_call(solver: Any) -> None:
    """Raises TypeError if `solver` is not a solver, ValueError inside a `tf.function`."""
    if not isinstance(solver, Solver):
        raise TypeError(
            "Expected solver= of mlhf.hypergrad.linear_solvers, such as ConjugateGradient(), got "
            f"{solver!r}."
        )
    if not tf.executing_eagerly():
        raise ValueError(
            "Expected implicit to be called eagerly, got it inside a tf.function: its solvers "
            "check as they go."
        )


class _Progress(NamedTuple):
    """How close training came to an optimum."""

    norm: float  # ‖gradient‖ at the end
    first: float | None  # ‖gradient‖ at the beginning
    size: float  # a bound of ‖H w‖, the size of the terms that cancel in a gradient
    moved: float  # a bound of ‖H (w_T - w_0)‖
    dtype: tf.DType

    @property
    def relative(self) -> float:
        """The gradient relative to the first one, or to H w without training."""
        reference = self.size if self.first is None else self.first
        return self.norm / reference if reference else float(self.norm > 0)

    @property
    def converged(self) -> bool:
        """Whether the gradient is practically zero."""
        rounding = 100 * float(np.finfo(self.dtype.as_numpy_dtype).eps)
        if self.norm <= rounding * self.size:
            return True
        # A loss that is flat at its optimum has small gradients far from it, too; the current
        # curvature shows whether this is the case.
        reference = max(self.size, self.moved)
        return self.relative <= _SMALL and self.norm <= _SMALL * reference

    def check(self) -> None:
        """Raises DivergedError if training moved away from its optimum."""
        if self.first is None or self.converged:
            return
        # The start may have been an optimum, so that the gradient is also compared with H w.
        if self.norm > self.first and self.norm > _FAR * self.size:
            raise guards.DivergedError(
                f"Expected training to come near an optimum, but the norm of its gradient grew "
                f"from {self.first:.3g} to {self.norm:.3g}: implicit says nothing of such weights. "
                "Lower the learning rate or train longer; or use reverse, which needs no optimum."
            )


def _refuse_without_gradient(training: Training) -> None:
    """Raises ValueError for hyperparameters that do not move the optimum."""
    found, resolver = training.dependencies, training.resolver
    if found.dynamics:
        raise ValueError(
            f"Expected hyperparameters that move the optimum, got {sorted(found.dynamics)} of the "
            "dynamics: at the optimum the gradient in them is zero, however much they matter on "
            f"the way. Use {INSTEAD}."
        )
    lost = sorted(found.initial - found.loss - found.direct)
    if lost:
        raise ValueError(
            f"Expected hyperparameters that move the optimum, got {lost} of the first state: at "
            f"the optimum the gradient in them is zero. Use {INSTEAD}."
        )
    scheduled = sorted(
        {o for o, s in zip(resolver.leaf_owner, resolver.scheduled, strict=True) if s}
    )
    if scheduled:
        raise ValueError(
            f"Expected hyperparameters with one value, got schedules {scheduled}: an optimum "
            f"knows no steps. Use {INSTEAD}."
        )


def loss_steps_of(training: Training, loss_steps: int | None) -> list[int]:
    """Returns the steps whose mean training loss has the optimum."""
    if loss_steps is None:
        loss_steps = 1 if training.problem.batches is None else min(_BATCHES, training.steps)
    count = check_count("loss_steps", loss_steps)
    if count > training.steps:
        raise ValueError(
            f"Expected loss_steps of at most the {training.steps} steps of training, got {count}."
        )
    return [i * training.steps // count for i in range(count)]


class _MeanLoss:
    """The mean training loss of some steps, and products with its second derivatives.

    Attributes:
      curvature: The largest ‖H v‖ / ‖v‖ seen so far.
    """

    def __init__(
        self, training: Training, solver: Solver, hyper: Any, steps: list[int], seed: tf.Tensor
    ):
        self._training, self._steps, self._seed = training, steps, seed
        self._leaves = tf.nest.flatten(hyper)
        self._product_of, self._products_of = _compiled(training, solver)
        self.curvature = 0.0

    def product(self, vector: tf.Tensor, direction: tf.Tensor) -> tf.Tensor:
        """Returns the product of the Hessian, or its replacement, with a direction, [P]."""
        product = self._mean(self._product_of, vector, direction)[0]
        along = float(tf.norm(direction))
        if along > 0:
            self.curvature = max(self.curvature, float(tf.norm(product)) / along)
        return product

    def products(self, vector: tf.Tensor, direction: tf.Tensor) -> tuple[tf.Tensor, list[Any]]:
        """Returns the gradient [P], and ∂<gradient, direction>/∂λ for each leaf."""
        gradient, *in_leaves = self._mean(self._products_of, vector, direction)
        if not bool(tf.reduce_all(tf.math.is_finite(gradient))):
            raise guards.DivergedError(
                "Expected a finite gradient of the training loss at the optimum, got one that is "
                "not: training has diverged. Lower the learning rate."
            )
        return gradient, in_leaves

    def _mean(
        self, function: Callable[..., list[tf.Tensor]], vector: tf.Tensor, direction: tf.Tensor
    ) -> list[tf.Tensor]:
        found = [
            unroll.run(
                self._training,
                function,
                vector,
                direction,
                tf.constant(step),
                self._seed,
                *self._leaves,
            )
            for step in self._steps
        ]
        return [tf.add_n(list(parts)) / len(found) for parts in zip(*found, strict=True)]


def _compiled(training: Training, solver: Solver) -> tuple[Callable[..., list[tf.Tensor]], ...]:
    """Returns `product` and `products` of a step's loss, each traced once."""
    # All solvers that work with the Hessian itself use the same functions.
    own = type(solver).product is not Solver.product
    key = ("implicit", solver if own else None)
    if key not in training.functions:
        resolver, size, dtype = training.resolver, training.flat.size, training.flat.dtype

        def product(
            vector: tf.Tensor,
            direction: tf.Tensor,
            step: tf.Tensor,
            seed: tf.Tensor,
            *leaves: tf.Tensor,
        ) -> list[tf.Tensor]:
            rows = resolver.rows(resolver.pack(leaves), step)
            other = solver.product(training, vector, direction, rows, step, seed)
            if other is not None:
                return [other]
            return [training.gradient_vjp(vector, direction, rows, step, seed).in_weights]

        def products(
            vector: tf.Tensor,
            direction: tf.Tensor,
            step: tf.Tensor,
            seed: tf.Tensor,
            *leaves: tf.Tensor,
        ) -> list[tf.Tensor]:
            rows = resolver.rows(resolver.pack(leaves), step)
            found = training.gradient_vjp(vector, direction, rows, step, seed)
            return [found.gradient, *found.in_rows]

        vector, number = tf.TensorSpec([size], dtype), tf.TensorSpec([], tf.int32)
        leaves = [
            tf.TensorSpec(shape, leaf_dtype)
            for shape, leaf_dtype in zip(resolver.leaf_shapes, resolver.leaf_dtypes, strict=True)
        ]
        training.functions[key] = tuple(
            tf.function(function, autograph=False).get_concrete_function(
                vector, vector, number, number, *leaves
            )
            for function in (product, products)
        )
    return training.functions[key]
