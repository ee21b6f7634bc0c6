"""Muon without a learning rate: orthogonalised momentum, its length from measured curvature."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_count, check_number, check_parameters
from mlhf.models import keras_models
from mlhf.objective import LinearizedObjective, Objective, inner
from mlhf.optimizers.curvature_length import (
    Measurements,
    completed,
    most_without_loss,
    no_measurements,
    predicted_decrease,
    quotient,
)
from mlhf.optimizers.gradient_methods.muon import length, names
from mlhf.optimizers.gradient_methods.orthogonal_momentum import Moments, OrthogonalMomentum
from mlhf.optimizers.orthogonalization import matrices
from mlhf.optimizers.predicted_decrease import Decrease, correction, no_decrease, with_batch
from mlhf.optimizers.settings import Fixed, Number
from mlhf.optimizers.step import CompiledSteps, Step
from mlhf.optimizers.step_arguments import as_tensors

# The number of steps at the start that all measure.
_FIRST = 10
# The most by which η grows in a step beyond what the rule says. The curvature of the next step may
# be ten times this one's: steps three times as long as the last one threw wide convnets back.
_GROWTH = 1.4


class Choices(NamedTuple):
    """What a step may do differently from the rule."""

    multiple: tf.Tensor  # of the rate η
    momentum: tf.Tensor  # μ
    lengths: Sequence[tf.Tensor]  # by leaf, multiples of u
    # By leaf, the share of momentum that is not orthogonalized; None for none.
    plain_shares: Sequence[tf.Tensor] | None = None


class Seen(NamedTuple):
    """What is known of the step before when a step's direction is chosen."""

    count: tf.Tensor  # the number of the step, from 1, in the dtype of the loss
    next_slopes: list[tf.Tensor]  # by leaf, ⟨g₊, u⟩ for the last step's u
    measurements: Measurements  # with the last step in their sums
    decrease: Decrease  # with the batch of this step


class CurvatureMuonState(NamedTuple):
    """The state between steps."""

    step: tf.Tensor  # int32, the number of steps taken
    momentum: Any  # averages of the gradients, in the structure of the parameters
    second_moments: tuple[tf.Tensor, ...]  # averages of squares, of those that Adam moves
    direction: Any  # u of the last step, in the structure of the parameters
    base: tf.Tensor  # b
    measurements: Measurements
    decrease: Decrease


class CurvatureMuon(CompiledSteps):
    """w ← w - η u, u from orthogonalized momentum and η from the curvature along u.

    The direction u is `mlhf.Muon`'s, at a rate of 1: 0.2 √(longer side) times the orthogonalized
    momentum of a kernel, Adam's direction for embeddings and vectors. Instead of a learning rate
    there is a number of steps, T, and step t, from 1, has

        η = b (1 - (t - 1)/T)

    In the first tenth of the steps, but at least ten, curvature sets b = c √(t/W) Σσ / Σκ, with W
    the number of these steps, the curvature κ = ⟨u, G u⟩ and the slope σ. The slope s = ⟨g, u⟩ on
    the batch that u was made from is up to ten times as large as σ, since u goes down that batch's
    noise as well; σ is what the next batch shows, ⟨g₊, u⟩ + η κ. The sums go over the steps so far
    that measured κ, the first ten, then every `every`-th, with weights t³. G, the Gauss-Newton
    matrix, is taken on a share of the batch, and ⟨u, G u⟩ = ⟨J u, H J u⟩ needs one forward-mode
    pass.

    From then on b ← b exp(a φ / t): the loss since the first step has fallen by a share ρ of
    Σ(η σ - η²/2 κ), which was predicted, and φ from -1 to 5 is 0 at ρ = 0.6, 1 at ρ = 1.
    Curvature alone can't set b for long: if steps are long, the network moves to where they are
    just stable (Cohen et al. 2021), and whatever b is, Σσ / Σκ comes to agree with it. What is
    missing then is the decrease of the loss.

    Scaling the loss leaves the steps as they are. After T steps η is 0, and further steps leave the
    parameters as they are.

    Attributes:
      scale: c; a new value holds from the next step on.
      gain: a; a new value holds from the next step on.
    """

    gain = Number(at_least=0)
    scale = Number(above=0)
    horizon, every, momentum, beta_1, beta_2 = (Fixed() for _ in range(5))
    curvature_share, epsilon, iterations, excluded = Fixed(), Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        horizon: int,
        *,
        scale: float = 0.85,
        gain: float = 1.0,
        every: int = 5,
        curvature_share: float = 0.25,
        momentum: float = 0.9,
        iterations: int = 5,
        excluded: Collection[str] = (),
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          horizon: T, the number of steps that training takes.
          scale: c, positive.
          gain: a, at least 0; with 0, b stays as it is after the first tenth.
          every: The number of steps between measurements after the first ten.
          curvature_share: The share of the batch that G is taken on, above 0 and at most 1.
          momentum: The share of the momentum that a step keeps, at least 0 and below 1; Nesterov's.
          iterations: The number of Newton-Schulz iterations.
          excluded: Kernels that Adam moves too, as for `mlhf.Muon`.
          beta_1: Adam's share of the average of gradients that a step keeps.
          beta_2: Adam's share of the average of squares that a step keeps.
          epsilon: Adam's ε.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        super().__init__(jit_compile)
        self.horizon = check_count("horizon", horizon)
        self.scale = scale
        self.gain = gain
        self.every = check_count("every", every)
        self.curvature_share = check_number("curvature_share", curvature_share, above=0, at_most=1)
        self.momentum = check_number("momentum", momentum, at_least=0, below=1)
        self.iterations = check_count("iterations", iterations, 0)
        self.excluded = names(excluded)
        self.beta_1 = check_number("beta_1", beta_1, at_least=0, below=1)
        self.beta_2 = check_number("beta_2", beta_2, at_least=0, below=1)
        self.epsilon = check_number("epsilon", epsilon, at_least=0)

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
        leaves = tf.nest.flatten(parameters)
        momentum, second = self._rule(parameters).initial(leaves)
        momentum = tf.nest.pack_sequence_as(parameters, momentum)
        dtype = leaves[0].dtype
        length = tf.zeros([], dtype), no_measurements(dtype), no_decrease(dtype)
        return CurvatureMuonState(tf.constant(0), momentum, tuple(second), momentum, *length)

    def _rule(self, parameters: Any, choices: Choices | None = None) -> OrthogonalMomentum:
        forms = matrices(parameters, self.excluded)
        adam = self.beta_1, self.beta_2, self.epsilon
        momentum, shares = self.momentum, None
        if choices is not None:
            momentum, shares = choices.momentum, choices.plain_shares
        return OrthogonalMomentum(forms, momentum, True, self.iterations, *adam, shares)

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
        return self._advance(objective, parameters, state, numbers, None)[:4]

    def _advance(
        self,
        objective: Objective,
        parameters: Any,
        state: CurvatureMuonState,
        numbers: dict[str, tf.Tensor],
        choose: Callable[[Seen], Choices] | None,
    ) -> tuple[Any, ...]:
        """Returns what a step returns, and the slopes s by leaf.

        Args:
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The state before the step.
          numbers: The numbers that may be set between steps.
          choose: A function that says what to do differently from the rule; None for nothing.
        """
        linearized = objective.linearize(parameters)
        gradient = linearized.gradient()
        next_slopes = _inner_by_leaf(gradient, state.direction)
        next_slope = tf.add_n(next_slopes)
        count = tf.cast(state.step + 1, next_slope.dtype)
        # The first steps see curvatures a thousand times as large or small as those that come.
        before = completed(state.measurements, next_slope, (count - 1) ** 3)
        predicted = predicted_decrease(state.measurements, next_slope)
        decrease = with_batch(state.decrease, count, linearized.value, predicted)
        seen = Seen(count, next_slopes, before, decrease)
        choices = None if choose is None else choose(seen)
        direction, moments = self._direction(gradient, parameters, state, choices)
        slopes = _inner_by_leaf(gradient, direction)
        slope = tf.add_n(slopes)
        measures = (state.step < _FIRST) | ((state.step + 1) % self.every == 0)
        curvature = tf.cond(
            measures,
            lambda: self._curvature(objective, linearized, parameters, direction),
            lambda: tf.zeros_like(slope),
        )
        base = tf.where(
            count <= self._rise,
            numbers["scale"]
            * tf.sqrt(count / self._rise)
            * tf.minimum(
                quotient(before, slope, curvature, count**3),
                most_without_loss(linearized.value, slope),
            ),
            state.base * tf.exp(numbers["gain"] / count * correction(decrease)),
        )
        rate = base * tf.nn.relu(self.horizon + 1 - count) / self.horizon
        if choices is not None:
            most = tf.maximum(rate, _GROWTH * state.measurements.last_rate)
            chosen = rate * choices.multiple
            rate = tf.where(state.step > 0, tf.minimum(chosen, most), chosen)
        last = before._replace(
            last_rate=rate,
            last_slope=slope,
            last_curvature=curvature,
            newest_curvature=tf.where(curvature > 0, curvature, before.newest_curvature),
        )
        moved = tf.nest.map_structure(lambda w, u: w - rate * u, parameters, direction)
        after = CurvatureMuonState(state.step + 1, *moments, direction, base, last, decrease)
        # A batch that is not finite moves nothing, and stays in no average.
        is_finite = tf.math.is_finite(linearized.value) & tf.math.is_finite(rate * slope)
        moved, after = tf.nest.map_structure(
            lambda new, old: tf.where(is_finite, new, old), (moved, after), (parameters, state)
        )
        steps = tf.nest.map_structure(tf.subtract, moved, parameters)
        metrics = {
            "loss": linearized.value,
            "gradient_norm": tf.linalg.global_norm(tf.nest.flatten(gradient)),
            "step_norm": tf.linalg.global_norm(tf.nest.flatten(steps)),
            "learning_rate": rate,
            "slope": slope,
            "curvature": curvature,
        }
        return moved, after, linearized.model_state, metrics, slopes

    def _direction(
        self,
        gradient: Any,
        parameters: Any,
        state: CurvatureMuonState,
        choices: Choices | None,
    ) -> tuple[Any, tuple[Any, tuple[tf.Tensor, ...]]]:
        """Returns u, and the averages of gradients and squares after the step."""
        rule = self._rule(parameters, choices)
        moments = Moments(tf.nest.flatten(state.momentum), list(state.second_moments))
        directions, (first, second) = rule.directions(
            tf.nest.flatten(gradient), moments, state.step + 1
        )
        scaled = [
            u if form is None else length(form, "rms") * u
            for form, u in zip(rule.forms, directions, strict=True)
        ]
        if choices is not None:
            scaled = [multiple * u for multiple, u in zip(choices.lengths, scaled, strict=True)]
        pack = tf.nest.pack_sequence_as
        return pack(parameters, scaled), (pack(parameters, first), tuple(second))

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

    @property
    def _rise(self) -> float:
        """W, the number of steps at the start whose length curvature sets."""
        return max(_FIRST, 0.1 * self.horizon)


def _inner_by_leaf(left: Any, right: Any) -> list[tf.Tensor]:
    pairs = zip(tf.nest.flatten(left), tf.nest.flatten(right), strict=True)
    return [inner(a, b) for a, b in pairs]
