"""Levenberg and Marquardt's method for residuals, with geodesic acceleration."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import tensorflow as tf

import custom_op
from custom_op.flat_form import FlatForm
from mlhf.checks.arguments import check_choice, check_count, check_number, check_parameters
from mlhf.models import keras_models
from mlhf.objective import L2, LinearizedObjective, Objective
from mlhf.optimizers.least_squares import gain_ratio
from mlhf.optimizers.least_squares.systems import MatrixFree, ParameterSpace, ResidualSpace, System
from mlhf.optimizers.settings import Fixed, Number
from mlhf.optimizers.step import CompiledSteps, Step
from mlhf.optimizers.step_arguments import as_tensors, note_layout

METHODS = ("residuals", "parameters", "cg")
# A matrix of this size is factored in about a second on two cores; a Jacobian of this size takes
# half a gigabyte.
_LARGEST_MATRIX, _LARGEST_JACOBIAN = 4096, 2**26
# The acceleration is used while it is small beside the velocity (Transtrum and Sethna 2012).
_MOST_ACCELERATION = 0.75
_log = logging.getLogger("mlhf")


class LevenbergMarquardtState(NamedTuple):
    """The state of Levenberg and Marquardt's method."""

    damping: tf.Tensor  # the scalar λ; negative before the first step
    growth: tf.Tensor  # the factor of λ at the next failure, a scalar
    steps: tf.Tensor  # int32, the number of steps taken


class _Trial(NamedTuple):
    """What the trials of one step carry."""

    number: tf.Tensor  # int32
    is_over: tf.Tensor  # bool
    damping: tf.Tensor
    growth: tf.Tensor
    moved: tf.Tensor  # flat: the parameters after the step, or those before if none is taken
    ratio: tf.Tensor
    length: tf.Tensor
    accelerated: tf.Tensor
    iterations: tf.Tensor


class LevenbergMarquardt(CompiledSteps):
    """w ← w - x - ½ a with (G + λ I) x = g: Gauss-Newton steps within a region of trust.

    For problems of least squares that first-order methods do not finish: equations, physical
    models, regression to many digits. G = Jᵀ H J is the Gauss-Newton matrix of the batch and g its
    gradient; the loss may be any of `custom_op.losses`.

    - The system is solved exactly, as a matrix of the residuals' size (G + λ I is inverted by
      J Jᵀ + λ I) or of the parameters', or by conjugate gradients with a Nyström preconditioner
      of the same point. `method="auto"` decides by the sizes; `chosen` says how.
    - λ follows the gain ratio, the loss's fall divided by the model's, by Nielsen's rule (1999):
      λ max(1/3, 1 - (2ρ - 1)³) after a success, and 2, 4, 8 ... times λ at each failure. A
      step that does not lower the loss is not taken: λ is raised within it, up to `trials` times.
    - Geodesic acceleration (Transtrum and Sethna 2012, arXiv 1201.5885): a is the solution for
      the outputs' second derivative along x, which bends the step as the outputs bend. It costs
      little beside the factorization, and cuts the number of steps several times.

    The loss is compared on the batch itself; the next step may bring other points.

    Attributes:
      damping: The first λ as a multiple of the mean of G's diagonal. It is read where a state's
        first step is taken; later ones take λ from the state.
      chosen: The method of the last step that was traced: `"residuals"`, `"parameters"` or
        `"cg"`; None before the first.
    """

    needs_known_sizes = True
    damping = Number(above=0)
    method, acceleration, trials = Fixed(), Fixed(), Fixed()
    cg_iterations, cg_tolerance, rank = Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        damping: float = 1e-2,
        *,
        method: str = "auto",
        acceleration: bool = True,
        trials: int = 8,
        cg_iterations: int = 200,
        cg_tolerance: float = 1e-3,
        rank: int = 50,
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          damping: The first λ, positive, as a multiple of the mean of G's diagonal.
          method: The form of the system: `"residuals"`, `"parameters"`, `"cg"`, or `"auto"` for a
            matrix of the smaller size up to 4,096, and conjugate gradients beyond.
          acceleration: Whether steps are bent by geodesic acceleration.
          trials: The largest number of λs that a step tries, at least 1.
          cg_iterations: The largest number of iterations of conjugate gradients.
          cg_tolerance: The relative residual at which they stop.
          rank: The rank of their preconditioner, 0 for none; as many products are made at once.
          jit_compile: Whether a step is compiled with XLA. On a CPU its Cholesky factorization
            takes ten times as long as TensorFlow's.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        super().__init__(jit_compile)
        self.damping = damping
        self.method = check_choice("method", method, ("auto", *METHODS))
        self.acceleration = check_choice("acceleration", acceleration, (True, False))
        self.trials = check_count("trials", trials)
        self.cg_iterations = check_count("cg_iterations", cg_iterations)
        self.cg_tolerance = check_number("cg_tolerance", cg_tolerance, at_least=0)
        self.rank = check_count("rank", rank, at_least=0)
        self._chosen: str | None = None

    @property
    def chosen(self) -> str | None:
        """The method of the last step that was traced, or None."""
        return self._chosen

    def init(self, parameters: Any) -> LevenbergMarquardtState:
        """Returns the state before the first step.

        Args:
          parameters: A structure of floating tensors of one dtype, or a built Keras model.
        """
        parameters = as_tensors(keras_models.parameters_of(parameters))
        state = self._state_like(parameters)
        note_layout(state, parameters)
        return state

    def _state_like(self, parameters: Any) -> LevenbergMarquardtState:
        dtype = check_parameters(parameters)
        if dtype not in (tf.float32, tf.float64):
            raise ValueError(
                f"Expected parameters in float32 or float64, got {dtype.name}: a Gauss-Newton "
                "system needs that precision; cast them."
            )
        return LevenbergMarquardtState(
            tf.constant(-1, tf.float64), tf.constant(2, tf.float64), tf.constant(0)
        )

    def step(self, objective: Objective, parameters: Any, state: LevenbergMarquardtState) -> Step:
        """Takes one step.

        Args:
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The state from `init` or the step before.

        Returns:
          New parameters, state and model state, and metrics: `loss`, `gradient_norm`, `step_norm`
          (0 if no step was taken), `damping` (the last λ tried), `ratio` (ρ), `trials`,
          `accelerated` (1 if the step was bent), `cg_iterations`, and `method` (an index into
          `mlhf.LM_METHODS`).

        Raises:
          ValueError: If the method can't serve the objective; the message says which can.
        """
        return self._take(objective, parameters, state)

    def _step(
        self,
        objective: Objective,
        parameters: Any,
        state: LevenbergMarquardtState,
        numbers: dict[str, tf.Tensor],
    ) -> tuple[Any, ...]:
        form = FlatForm(parameters, "parameters")
        linearized = objective.linearize(parameters)
        method = self._choose(objective, linearized, form)
        system = self._system(method, objective, linearized, form, state)
        mean = system.trace / form.size
        first = tf.cast(numbers["damping"], tf.float64) * tf.cast(mean, tf.float64)
        damping = tf.where(state.damping < 0, first, state.damping)
        trial = self._try(system, objective, linearized, form, damping, state.growth)
        metrics = {
            "loss": linearized.value,
            "gradient_norm": tf.cast(tf.norm(system.gradient), form.dtype),
            "step_norm": tf.cast(trial.length, form.dtype),
            "damping": tf.cast(damping, form.dtype),
            "ratio": tf.cast(trial.ratio, form.dtype),
            "trials": trial.number,
            "accelerated": trial.accelerated,
            "cg_iterations": trial.iterations,
            "method": tf.constant(METHODS.index(method)),
        }
        # A batch that is not finite says nothing about λ.
        is_finite = tf.math.is_finite(linearized.value) & tf.math.is_finite(trial.damping)
        after = LevenbergMarquardtState(
            tf.where(is_finite, trial.damping, state.damping),
            tf.where(is_finite, trial.growth, state.growth),
            state.steps + 1,
        )
        return form.unflatten(trial.moved), after, linearized.model_state, metrics

    def _choose(self, objective: Objective, linearized: LinearizedObjective, form: FlatForm) -> str:
        """Returns the method, decided by the sizes while a step is traced."""
        shapes = [z.shape for z in outputs_of(objective, linearized.parameters)]
        regularizer = objective.regularizer
        dense = regularizer is None or (isinstance(regularizer, L2) and not regularizer.excluded)
        is_static = all(shape.is_fully_defined() for shape in shapes)
        count = sum(shape.num_elements() for shape in shapes) if is_static else None
        method = self.method
        if method == "auto":
            small = count is not None and (
                min(count, form.size) <= _LARGEST_MATRIX and count * form.size <= _LARGEST_JACOBIAN
            )
            method = "cg"
            if dense and small:
                method = "residuals" if count and count < form.size else "parameters"
        elif method != "cg" and (count is None or not dense):
            what = "outputs of static shape" if dense else "no regularizer but an mlhf.L2 of all"
            raise ValueError(
                f'Expected {what} for method="{method}", got '
                f'{shapes if dense else regularizer!r}: take method="cg".'
            )
        self._chosen = method
        _log.info(
            "Levenberg-Marquardt: method %r for %s residuals and %d parameters.",
            method,
            "an unknown number of" if count is None else count,
            form.size,
        )
        return method

    def _system(
        self,
        method: str,
        objective: Objective,
        linearized: LinearizedObjective,
        form: FlatForm,
        state: LevenbergMarquardtState,
    ) -> System:
        if method == "cg":
            seed = tf.stack([state.steps, 0])
            return MatrixFree(
                linearized, form, self.rank, self.cg_iterations, self.cg_tolerance, seed
            )
        regularizer = objective.regularizer
        decay = regularizer.coefficient if isinstance(regularizer, L2) else 0.0
        kind = ResidualSpace if method == "residuals" else ParameterSpace
        return kind(linearized, form, decay)

    def _try(
        self,
        system: System,
        objective: Objective,
        linearized: LinearizedObjective,
        form: FlatForm,
        damping: tf.Tensor,
        growth: tf.Tensor,
    ) -> _Trial:
        """Raises λ until the loss falls."""
        here = form.flatten(linearized.parameters)
        dtype = system.gradient.dtype
        before = tf.cast(linearized.value, dtype)

        def value(moved: tf.Tensor) -> tf.Tensor:
            parameters = form.unflatten(moved)
            loss = objective.data_loss(parameters)
            if objective.regularizer is not None:
                loss += objective.regularizer.value(parameters)
            return tf.cast(loss, dtype)

        def one(trial: _Trial) -> _Trial:
            raised = tf.cast(
                tf.maximum(trial.damping, tf.cast(system.least_damping, tf.float64)), dtype
            )
            factored = system.factored(raised)
            solved = factored.direction()
            x = solved.x
            left = system.gradient if solved.residual is None else system.gradient - solved.residual
            curved = tf.tensordot(x, left - raised * x, 1)
            predicted = tf.tensordot(x, system.gradient, 1) - 0.5 * curved
            velocity = -x
            accelerated = tf.constant(0)
            if self.acceleration:
                velocity, accelerated = self._bent(factored, objective, form, here, velocity)
            moved = here + tf.cast(velocity, here.dtype)
            after = value(moved)
            ratio = gain_ratio.gain(before, after, predicted)
            is_known = gain_ratio.is_significant(before, predicted)
            success = tf.math.is_finite(before) & (after < before)
            raised = tf.cast(raised, tf.float64)
            lowered = gain_ratio.after_success(raised, tf.cast(ratio, tf.float64))
            # Below the loss's rounding error there is nothing to learn about λ.
            next_damping = tf.where(success, lowered, raised * trial.growth)
            next_growth = tf.where(success, tf.constant(2, tf.float64), 2 * trial.growth)
            return _Trial(
                trial.number + 1,
                success | ~is_known,
                tf.where(is_known, next_damping, raised),
                tf.where(is_known, next_growth, trial.growth),
                tf.where(success, moved, here),
                ratio,
                tf.where(success, tf.norm(velocity), tf.zeros([], dtype)),
                accelerated,
                trial.iterations + solved.iterations,
            )

        zero, none = tf.zeros([], dtype), tf.constant(0)
        start = _Trial(none, tf.constant(False), damping, growth, here, -1 + zero, zero, none, none)
        loop = tf.while_loop(
            lambda trial: ~trial.is_over,
            lambda trial: (one(trial),),
            (start,),
            maximum_iterations=self.trials,
        )
        return loop[0]

    def _bent(
        self,
        factored: Any,
        objective: Objective,
        form: FlatForm,
        here: tf.Tensor,
        velocity: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the step with the acceleration, where that is small enough; and whether it is."""
        tangents = form.unflatten(tf.cast(velocity, here.dtype))

        def slope(parameters: Any) -> list[tf.Tensor]:
            def outputs(p: Any) -> list[tf.Tensor]:
                return outputs_of(objective, p)

            return custom_op.jvp(outputs, parameters, tangents)[1]

        second = custom_op.jvp(slope, form.unflatten(here), tangents)[1]
        acceleration = -factored.correction(second)
        fits = tf.norm(acceleration) <= _MOST_ACCELERATION * tf.norm(velocity)
        return tf.where(fits, velocity + 0.5 * acceleration, velocity), tf.cast(fits, tf.int32)


def outputs_of(objective: Objective, parameters: Any) -> list[tf.Tensor]:
    """Returns the outputs of each term's network."""
    return [term.objective.outputs(parameters)[0] for term in objective.terms]
