"""Hessian-free optimization with the Gauss-Newton matrix (Martens 2010)."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count, check_number
from mlhf.layout import plain_form
from mlhf.models import keras_models
from mlhf.objective import Objective
from mlhf.optimizers.conjugate_gradient import conjugate_gradient
from mlhf.optimizers.curvature_shares import linearize_shares
from mlhf.optimizers.damping import adapt_damping, model_decrease
from mlhf.optimizers.preconditioners.choice import check_preconditioner, of_vectors
from mlhf.optimizers.settings import Fixed, Number
from mlhf.optimizers.step import CompiledSteps, Step
from mlhf.optimizers.step_arguments import as_tensors, note_layout


class HessianFreeState(NamedTuple):
    """The state of Hessian-free optimization without learned parts."""

    solution: tf.Tensor  # flat, the last solution of conjugate gradients
    damping: tf.Tensor  # the scalar λ
    step: Any = ()  # int32, the number of steps taken; nothing if no number is scheduled


def initial_state(parameters: Any, damping: Any = 0.0) -> HessianFreeState:
    """Returns the state before the first step.

    Args:
      parameters: A structure of floating tensors of one dtype, or a built Keras model.
      damping: λ, a number or a tensor.

    Returns:
      The state, its solution zero.
    """
    parameters = as_tensors(keras_models.parameters_of(parameters))
    form = plain_form(parameters)
    state = HessianFreeState(tf.zeros([form.size], form.dtype), tf.cast(damping, form.dtype))
    note_layout(state, parameters)
    return state


class HessianFree(CompiledSteps):
    """w ← w - lr x with (G + λ I) x ≈ g, by a few conjugate-gradient iterations.

    G = Jᵀ H J is the Gauss-Newton matrix of the batch and g its gradient. λ, the damping, says how
    far the quadratic model is trusted: if it is too small, steps in a batch's flat directions grow
    without bound; if it is too large, the step is a gradient step of length lr/λ. With
    `damping_type="LM_heuristics"` it is adapted by the ratio of the loss's change to the model's;
    on small batches that ratio is noisy, since both are measured on the batch itself.

    g is taken on the whole batch; G, which takes most of the time, may be taken on its first
    examples only (Martens and Sutskever 2012).

    Attributes:
      learning_rate: lr; a new value holds from the next step on.
      damping: λ; a new value holds from the next step on. If λ is adapted, it is part of the
        state, and the attribute is its value in states that `init` makes from then on.
    """

    learning_rate = Number(above=0, schedule=True)
    damping = Number(at_least=0)
    cg_iterations, x_use, damping_type, decay = Fixed(), Fixed(), Fixed(), Fixed()
    curvature_share, guards, cg_tolerance, product_dtype = Fixed(), Fixed(), Fixed(), Fixed()
    preconditioner = Fixed()

    def __init__(
        self,
        learning_rate: float = 1.0,
        damping: float = 1.0,
        cg_iterations: int = 4,
        *,
        x_use: str = "x",
        damping_type: str = "regular",
        decay: float = 0.9,
        curvature_share: float = 1.0,
        guards: str = "relative",
        cg_tolerance: float | None = None,
        product_dtype: str | None = None,
        preconditioner: Any = None,
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          learning_rate: lr, positive: a number, a tensor, or a variable, read at every step; or a
            function of the steps taken, such as one of `keras.optimizers.schedules`.
          damping: λ, at least 0; if it is adapted, its first value, from then on within [1e-3, 1].
          cg_iterations: The largest number of iterations, each one product with G.
          x_use: The start of conjugate gradients: `"x"` the last solution, `"d"` the gradient,
            `"zero"`.
          damping_type: The kind of damping: `"regular"` (constant) or `"LM_heuristics"`.
          decay: The factor of the heuristic, between 0 and 1.
          curvature_share: The share of the batch that G is taken on, above 0 and at most 1.
          guards: The guards, as for `mlhf.conjugate_gradient`.
          cg_tolerance: The tolerance, as for `mlhf.conjugate_gradient`.
          product_dtype: The dtype of the network's part of products with G: `"bfloat16"` is about
            three times as fast on processors with such units, with errors of up to 1%; None, the
            default, is the parameters' dtype. Gradient, loss and the vectors of conjugate gradients
            stay in the parameters' dtype either way.
          preconditioner: The preconditioner of conjugate gradients: None,
            `mlhf.NystromPreconditioner(rank)`, or a function `(objective, parameters, damping)`
            that returns a function of a structure like the parameters, an approximation of
            (G + λ I)⁻¹. It has to be symmetric and positive definite.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
          TypeError: If the preconditioner is something else.
        """
        super().__init__(jit_compile)
        self.damping_type = check_choice("damping_type", damping_type, ("regular", "LM_heuristics"))
        self.learning_rate = learning_rate
        self.damping = damping
        self.cg_iterations = check_count("cg_iterations", cg_iterations)
        self.x_use = check_choice("x_use", x_use, ("x", "d", "zero"))
        self.decay = check_number("decay", decay, above=0, below=1)
        self.curvature_share = check_number("curvature_share", curvature_share, above=0, at_most=1)
        self.guards = check_choice("guards", guards, ("relative", "paper"))
        if cg_tolerance is not None:
            cg_tolerance = check_number("cg_tolerance", cg_tolerance, at_least=0)
        self.cg_tolerance = cg_tolerance
        self.product_dtype = check_choice("product_dtype", product_dtype, (None, "bfloat16"))
        self.preconditioner = check_preconditioner(preconditioner)

    def init(self, parameters: Any) -> HessianFreeState:
        """Returns the state before the first step.

        Args:
          parameters: A structure of floating tensors of one dtype, or a built Keras model.

        Returns:
          The state.
        """
        return self._with_count(initial_state(parameters, type(self).damping.read(self)))

    def _state_like(self, parameters: Any) -> HessianFreeState:
        return initial_state(parameters)

    def step(self, objective: Objective, parameters: Any, state: HessianFreeState) -> Step:
        """Takes one step.

        Args:
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The state from `init` or the step before.

        Returns:
          New parameters, state and model state, and metrics: `loss`, `gradient_norm`,
          `step_norm`, `damping`, `cg_iterations`, `cg_reason` (an index into
          `mlhf.CG_REASONS`).
        """
        return self._take(objective, parameters, state)

    def _step(
        self,
        objective: Objective,
        parameters: Any,
        state: HessianFreeState,
        numbers: dict[str, tf.Tensor],
    ) -> tuple[Any, ...]:
        rate = numbers["learning_rate"]
        if self.damping_type == "regular":
            state = state._replace(damping=numbers["damping"])
        form = plain_form(parameters)
        linearized, curvature = linearize_shares(
            objective, parameters, form, self.curvature_share, self.product_dtype
        )
        gradient = form.flatten(linearized.gradient())
        start = {"x": state.solution, "d": gradient, "zero": None}[self.x_use]
        solution = conjugate_gradient(
            lambda v: curvature(v) + state.damping * v,
            gradient,
            x0=start,
            preconditioner=of_vectors(
                self.preconditioner, objective, parameters, form, curvature, state.damping
            ),
            max_iterations=self.cg_iterations,
            tolerance=self.cg_tolerance,
            guards=self.guards,
        )
        # A batch that is not finite moves nothing, and no step starts from its solution.
        is_finite = tf.math.is_finite(tf.norm(gradient)) & tf.math.is_finite(tf.norm(solution.x))
        taken = tf.where(is_finite, solution.x, tf.zeros_like(solution.x))
        last = tf.where(is_finite, solution.x, state.solution)
        moved = form.unflatten(form.flatten(parameters) - rate * taken)
        damping = state.damping
        if self.damping_type == "LM_heuristics":
            predicted = model_decrease(gradient, solution.x, solution.residual, rate)
            after = objective.data_loss(moved)
            damping = adapt_damping(damping, linearized.data_loss, after, predicted, self.decay)
        metrics = {
            "loss": linearized.value,
            "gradient_norm": tf.norm(gradient),
            "step_norm": rate * tf.norm(taken),
            "damping": state.damping,
            "cg_iterations": solution.iterations,
            "cg_reason": solution.reason,
        }
        return moved, HessianFreeState(last, damping), linearized.model_state, metrics
