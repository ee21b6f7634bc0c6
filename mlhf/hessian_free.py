"""Hessian-free optimization with the Gauss-Newton matrix (Martens 2010)."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf import keras_models
from mlhf.layout import Layout
from mlhf.objective import Objective
from mlhf.preconditioned_cg import conjugate_gradient
from mlhf.proposal import adapt_damping, curvature_of, model_decrease
from mlhf.step import Step, public_model_state
from mlhf.validation import check_choice, check_count, check_number


class HessianFreeState(NamedTuple):
    """What plain Hessian-free carries from step to step."""

    solution: tf.Tensor  # flat, where the next conjugate gradients start
    damping: tf.Tensor  # the scalar λ


class HessianFree:
    """w ← w - lr x with (G + λ I) x ≈ g, by a few conjugate-gradient iterations.

    G = Jᵀ H J is the Gauss-Newton matrix of the batch and g its gradient. λ, the damping, says how
    far the quadratic model is trusted: too small and steps on a batch's flat directions grow
    without bound, too large and the step is a gradient step of length lr/λ. With
    `damping_type="LM_heuristics"` it is adapted from the ratio of the loss's change to the
    model's; on small batches that ratio is noisy, since both are measured on the batch itself.
    """

    def __init__(
        self,
        learning_rate: float = 1.0,
        damping: float = 1.0,
        cg_iterations: int = 4,
        *,
        x_use: str = "x",
        damping_type: str = "regular",
        decay: float = 0.9,
        guards: str = "relative",
        cg_tolerance: float | None = None,
        product_dtype: str | None = None,
        jit_compile: bool = False,
    ):
        """Sets an optimizer up.

        Args:
          learning_rate: lr, positive.
          damping: λ, at least 0; where it starts, if it is adapted.
          cg_iterations: At most so many, each one product with G.
          x_use: Where conjugate gradients start: `"x"` at the last solution, `"d"` at the
            gradient, `"zero"`.
          damping_type: `"regular"` (constant) or `"LM_heuristics"`.
          decay: The factor of the heuristic, between 0 and 1.
          guards: As for `mlhf.conjugate_gradient`.
          cg_tolerance: As for `mlhf.conjugate_gradient`.
          product_dtype: `"bfloat16"` to compute the network's part of products with G in it, which
            processors with such units do about three times as fast, with errors of about 0.3%;
            None, the default, in the parameters' dtype. Gradient, loss and the vectors of
            conjugate gradients stay in the parameters' dtype either way.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        self.learning_rate = check_number("learning_rate", learning_rate, above=0)
        self.damping = check_number("damping", damping, at_least=0)
        self._iterations = check_count("cg_iterations", cg_iterations)
        self._x_use = check_choice("x_use", x_use, ("x", "d", "zero"))
        self._damping_type = check_choice(
            "damping_type", damping_type, ("regular", "LM_heuristics")
        )
        self._decay = check_number("decay", decay, above=0, below=1)
        self._guards = check_choice("guards", guards, ("relative", "paper"))
        if cg_tolerance is not None:
            cg_tolerance = check_number("cg_tolerance", cg_tolerance, at_least=0)
        self._tolerance = cg_tolerance
        self._product_dtype = check_choice("product_dtype", product_dtype, (None, "bfloat16"))
        self._jit_compile = jit_compile
        self._compiled: dict = {}

    def init(self, parameters: Any) -> HessianFreeState:
        """Returns the state before the first step.

        Args:
          parameters: A structure of floating tensors of one dtype, or a built Keras model.

        Returns:
          The state.
        """
        parameters = keras_models.parameters_of(parameters)
        layout = Layout(parameters, "any")
        zeros = tf.zeros([layout.size], layout.dtype)
        return HessianFreeState(zeros, tf.constant(self.damping, layout.dtype))

    def step(self, objective: Objective, parameters: Any, state: HessianFreeState) -> Step:
        """Takes one step.

        Args:
          objective: The loss on a batch.
          parameters: Where it stands.
          state: From `init` or the step before.

        Returns:
          New parameters, state and model state, and metrics: `loss`, `gradient_norm`,
          `step_norm`, `damping`, `cg_iterations`, `cg_reason` (an index into
          `mlhf.CG_REASONS`).
        """
        key = objective.static
        if key not in self._compiled:
            self._compiled[key] = tf.function(
                lambda *arguments: self._step(key, *arguments),
                jit_compile=self._jit_compile,
                autograph=False,
            )
        rate = tf.constant(self.learning_rate, state.solution.dtype)
        parameters, state, model_state, metrics = self._compiled[key](
            objective.tensors, parameters, state, rate
        )
        return Step(parameters, state, public_model_state(model_state), metrics)

    def _step(self, static, tensors, parameters, state, rate):
        layout = Layout(parameters, "any")
        objective = Objective.of(static, tensors)
        linearized = objective.linearize(parameters, self._product_dtype)
        gradient = layout.flatten(linearized.gradient())
        curvature = curvature_of(linearized, layout)
        start = {"x": state.solution, "d": gradient, "zero": None}[self._x_use]
        solution = conjugate_gradient(
            lambda v: curvature(v) + state.damping * v,
            gradient,
            x0=start,
            max_iterations=self._iterations,
            tolerance=self._tolerance,
            guards=self._guards,
        )
        moved = layout.unflatten(layout.flatten(parameters) - rate * solution.x)
        damping = state.damping
        if self._damping_type == "LM_heuristics":
            predicted = model_decrease(gradient, solution.x, solution.residual, rate)
            change = objective.data_loss(moved) - linearized.data_loss
            damping = adapt_damping(damping, change, predicted, self._decay)
        metrics = {
            "loss": linearized.value,
            "gradient_norm": tf.norm(gradient),
            "step_norm": rate * tf.norm(solution.x),
            "damping": state.damping,
            "cg_iterations": solution.iterations,
            "cg_reason": solution.reason,
        }
        return moved, HessianFreeState(solution.x, damping), linearized.model_state, metrics
