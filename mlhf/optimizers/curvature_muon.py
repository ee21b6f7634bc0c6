"""Muon without a learning rate: orthogonalised momentum, its length from measured curvature."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_count, check_number, check_parameters
from mlhf.models import keras_models
from mlhf.objective import LinearizedObjective, Objective, inner
from mlhf.optimizers import orthogonal_momentum
from mlhf.optimizers.orthogonal_momentum import Moments
from mlhf.optimizers.orthogonalization import Matrix, matrices
from mlhf.optimizers.settings import Fixed, Number
from mlhf.optimizers.step import CompiledSteps, Step
from mlhf.optimizers.step_arguments import as_tensors

# A batch's slope along its own direction contains noise, the more the smaller the batch is.
_LARGE_BATCH = 256
# The number of steps at the start that all measure.
_FIRST = 10


class CurvatureMuonState(NamedTuple):
    """The state between steps."""

    step: tf.Tensor  # int32, the number of steps taken
    moments: Moments
    slope: tf.Tensor  # Σ ⟨g, u⟩ over the steps that measured
    curvature: tf.Tensor  # Σ ⟨u, G u⟩ over the same steps


class CurvatureMuon(CompiledSteps):
    """w ← w - η u, u from orthogonalised momentum and η from the curvature along u.

    The direction u is Muon's (Jordan et al. 2024): Nesterov's momentum, orthogonalised for every
    matrix and convolution kernel, and Adam's direction for vectors and embeddings, at the same
    rate. Instead of a learning rate there is a number of steps, T, and step t, from 1, has

        η = c · min(1, t/W) · (1 - (t - 1)/T) · Σ⟨g, u⟩ / Σ⟨u, G u⟩

    where the sums go over the steps so far that measured: the first ten, then every `every`-th.
    For one step the quotient is the minimiser of the quadratic model along u; the sums' quotient
    changes slowly, and scaling the loss or u does not change η u. G, the Gauss-Newton matrix, is
    taken on a share of the batch, and ⟨u, G u⟩ = ⟨J u, H J u⟩ needs one forward-mode pass.

    After T steps η is 0, and further steps leave the parameters as they are.

    Attributes:
      scale: c, or None for its rule; a new value holds from the next step on.
    """

    scale = Number(above=0, optional=True)
    horizon, ramp, every, momentum, beta_2 = Fixed(), Fixed(), Fixed(), Fixed(), Fixed()
    curvature_share, epsilon, iterations, excluded = Fixed(), Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        horizon: int,
        *,
        scale: float | None = None,
        ramp: float = 0.1,
        every: int = 5,
        curvature_share: float = 0.25,
        momentum: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        iterations: int = 5,
        excluded: Collection[str] = (),
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          horizon: T, the number of steps that training takes.
          scale: c, positive; None for 1 from 256 examples on and √(examples / 256) below.
          ramp: W as a share of T, from 0 to 1.
          every: The number of steps between measurements after the first ten.
          curvature_share: The share of the batch that G is taken on, above 0 and at most 1.
          momentum: β₁, the share of the momentum that a step keeps.
          beta_2: β₂, the same for the squares of Adam's directions.
          epsilon: ε, which is added to the roots of these squares.
          iterations: The number of Newton-Schulz iterations.
          excluded: Parameters besides vectors and embeddings that get Adam's direction, by their
            paths or whole parts of them (`"logits"`).
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        super().__init__(jit_compile)
        self.horizon = check_count("horizon", horizon)
        self.scale = scale
        self.ramp = check_number("ramp", ramp, at_least=0, at_most=1)
        self.every = check_count("every", every)
        self.curvature_share = check_number("curvature_share", curvature_share, above=0, at_most=1)
        self.momentum = check_number("momentum", momentum, at_least=0, below=1)
        self.beta_2 = check_number("beta_2", beta_2, at_least=0, below=1)
        self.epsilon = check_number("epsilon", epsilon, above=0)
        self.iterations = check_count("iterations", iterations)
        if isinstance(excluded, str):
            raise ValueError(f"Expected excluded to be a collection of paths, got {excluded!r}.")
        self.excluded = tuple(excluded)

    def init(self, parameters: Any) -> CurvatureMuonState:
        """Returns the state before the first step.

        Args:
          parameters: A structure of floating tensors of one dtype, or a built Keras model.

        Returns:
          The state.

        Raises:
          ValueError: If the parameters do not share one floating dtype.
        """
        parameters = as_tensors(keras_models.parameters_of(parameters))
        check_parameters(parameters)
        return self._state_like(parameters)

    def _state_like(self, parameters: Any) -> CurvatureMuonState:
        moments = orthogonal_momentum.initial_moments(parameters, self._forms(parameters))
        zero = tf.zeros([], tf.nest.flatten(parameters)[0].dtype)
        return CurvatureMuonState(tf.constant(0), moments, zero, zero)

    def _forms(self, parameters: Any) -> list[Matrix | None]:
        return matrices(parameters, self.excluded)

    def step(self, objective: Objective, parameters: Any, state: CurvatureMuonState) -> Step:
        """Takes one step.

        Args:
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The state from `init` or the step before.

        Returns:
          New parameters, state and model state, and metrics: `loss`, `gradient_norm`,
          `step_norm`, `learning_rate` (η), `slope` (⟨g, u⟩) and `curvature` (⟨u, G u⟩, 0 at steps
          that do not measure).
        """
        return self._take(objective, parameters, state)

    def _step(
        self,
        objective: Objective,
        parameters: Any,
        state: CurvatureMuonState,
        numbers: dict[str, tf.Tensor],
    ) -> tuple[Any, ...]:
        linearized = objective.linearize(parameters)
        gradient = linearized.gradient()
        dtype = tf.nest.flatten(parameters)[0].dtype
        direction, moments = orthogonal_momentum.direct(
            gradient,
            state.moments,
            tf.cast(state.step + 1, dtype),
            self._forms(parameters),
            self.momentum,
            self.beta_2,
            self.epsilon,
            self.iterations,
        )
        slope = inner(gradient, direction)
        measures = (state.step < _FIRST) | ((state.step + 1) % self.every == 0)
        curvature = tf.cond(
            measures,
            lambda: self._curvature(objective, linearized, parameters, direction),
            lambda: tf.zeros([], dtype),
        )
        # A batch that is not finite moves nothing, and stays in no average.
        is_finite = tf.math.is_finite(slope) & tf.math.is_finite(curvature)
        counts = measures & is_finite
        slopes = state.slope + tf.where(counts, slope, tf.zeros_like(slope))
        curvatures = state.curvature + tf.where(counts, curvature, tf.zeros_like(curvature))
        rate = self._scale(objective, numbers) * self._schedule(state.step, dtype)
        rate *= tf.math.divide_no_nan(tf.nn.relu(slopes), curvatures)
        taken = tf.nest.map_structure(
            lambda u: tf.where(is_finite, rate * u, tf.zeros_like(u)), direction
        )
        moments = tf.nest.map_structure(
            lambda new, old: tf.where(is_finite, new, old), moments, state.moments
        )
        metrics = {
            "loss": linearized.value,
            "gradient_norm": tf.linalg.global_norm(tf.nest.flatten(gradient)),
            "step_norm": tf.linalg.global_norm(tf.nest.flatten(taken)),
            "learning_rate": rate,
            "slope": slope,
            "curvature": curvature,
        }
        moved = tf.nest.map_structure(tf.subtract, parameters, taken)
        state = CurvatureMuonState(state.step + 1, moments, slopes, curvatures)
        return moved, state, linearized.model_state, metrics

    def _curvature(
        self,
        objective: Objective,
        linearized: LinearizedObjective,
        parameters: Any,
        direction: Any,
    ) -> tf.Tensor:
        part = objective.first_examples(self.curvature_share)
        at = linearized if part is objective else part.linearize(parameters)
        return at.curvature_along(direction)

    def _schedule(self, step: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns min(1, t/W) · (1 - (t - 1)/T), at least 0, for t - 1 steps taken."""
        count = tf.cast(step, dtype)
        rise = tf.minimum((count + 1) / max(1.0, self.ramp * self.horizon), 1.0)
        return rise * tf.nn.relu(self.horizon - count) / self.horizon

    def _scale(self, objective: Objective, numbers: dict[str, tf.Tensor]) -> Any:
        if "scale" in numbers:
            return numbers["scale"]
        return min(1.0, (objective.batch_size() / _LARGE_BATCH) ** 0.5)
