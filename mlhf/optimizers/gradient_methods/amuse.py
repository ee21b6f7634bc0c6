"""AMUSE: Muon without a schedule, by averaging (Kim et al. 2026)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count, check_number
from mlhf.optimizers.gradient_methods.method import (
    GradientMethod,
    Leaves,
    Point,
    adam_direction,
    average,
    zeros_like,
)
from mlhf.optimizers.gradient_methods.muon import LENGTHS, length, names
from mlhf.optimizers.gradient_methods.schedule_free import warmup
from mlhf.optimizers.orthogonalization import matrices, orthogonalize_all
from mlhf.optimizers.settings import Fixed, Number


class AMUSEState(NamedTuple):
    """The state of AMUSE; structures are those of the parameters."""

    step: tf.Tensor  # int32, the number of steps taken
    base: Any  # z, where steps without averaging have led
    average: Any  # x, the average of all z
    momentum: tuple[tf.Tensor, ...]  # averages of the gradients, of those that are orthogonalized
    second_moments: tuple[tf.Tensor, ...]  # averages of squares, of the others


class AMUSE(GradientMethod):
    """Muon that steps from z, takes gradients at y and is evaluated at x (arXiv 2605.22432).

        y = (1 - β) z + β x                    where the gradient g is taken
        m ← μ m + (1 - μ) g
        z ← z - lr · length · orthogonalized(m)
        x ← (1 - 1/(t + 1)) x + z / (t + 1)    the average
        β = β₁ in the first T₀ steps, then 1 - (1 - β₁) ((T₀ - 1) / (t - 1))^ρ

    with t the number of the step, from 1. Gradients are taken near the fast z at first and ever
    closer to the average. The learning rate rises linearly over the T₀ steps and stays. What Muon
    leaves to Adam is moved by Adam without momentum here, around the same three points.

    The parameters that a step takes and returns are y. What to evaluate, test and keep at the end
    is x: `evaluation_parameters(parameters, state)`.

    Attributes:
      momentum: μ; a new value holds from the next step on.
    """

    _averages = True
    momentum = Number(at_least=0, below=1)
    warmup_steps, interpolation, exponent = Fixed(), Fixed(), Fixed()
    length, iterations, excluded = Fixed(), Fixed(), Fixed()
    beta_2, epsilon = Fixed(), Fixed()

    def __init__(
        self,
        learning_rate: Any = 0.02,
        momentum: Any = 0.95,
        *,
        weight_decay: Any = 0.0,
        warmup_steps: int = 10,
        interpolation: float = 0.3,
        exponent: float = 0.25,
        length: str = "rms",
        iterations: int = 5,
        excluded: Collection[str] = (),
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          learning_rate: lr, positive: a number, a tensor, a variable, or a function of the steps
            taken. It is not meant to fall.
          momentum: μ, at least 0 and below 1.
          weight_decay: The decoupled weight decay, of y.
          warmup_steps: T₀, at least 2.
          interpolation: β₁, at least 0 and below 1.
          exponent: ρ, at least 0: how fast β approaches 1.
          length: The length of a step, as for `mlhf.Muon`.
          iterations: The number of Newton-Schulz iterations.
          excluded: Kernels that are not orthogonalized, as for `mlhf.Muon`.
          beta_2: Adam's share of the average of squares that a step keeps.
          epsilon: Adam's ε.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        super().__init__(learning_rate, weight_decay, jit_compile)
        self.momentum = momentum
        self.warmup_steps = check_count("warmup_steps", warmup_steps, 2)
        self.interpolation = check_number("interpolation", interpolation, at_least=0, below=1)
        self.exponent = check_number("exponent", exponent, at_least=0)
        self.length = check_choice("length", length, LENGTHS)
        self.iterations = check_count("iterations", iterations, 0)
        self.excluded = names(excluded)
        self.beta_2 = check_number("beta_2", beta_2, at_least=0, below=1)
        self.epsilon = check_number("epsilon", epsilon, at_least=0)

    def evaluation_parameters(self, parameters: Any, state: AMUSEState) -> Any:
        """Returns x, the parameters to evaluate.

        Args:
          parameters: y, the parameters of the last step.
          state: The state of the last step.
        """
        del parameters
        return state.average

    def _initial(self, parameters: Any) -> AMUSEState:
        leaves, forms = tf.nest.flatten(parameters), matrices(parameters, self.excluded)
        kernels = [leaf for leaf, form in zip(leaves, forms, strict=True) if form is not None]
        others = [leaf for leaf, form in zip(leaves, forms, strict=True) if form is None]
        return AMUSEState(
            tf.constant(0),
            tf.nest.map_structure(tf.identity, parameters),
            tf.nest.map_structure(tf.identity, parameters),
            tuple(zeros_like(kernels)),
            tuple(zeros_like(others)),
        )

    def _rule(
        self, point: Point, state: AMUSEState, numbers: dict[str, tf.Tensor]
    ) -> tuple[Leaves, AMUSEState]:
        forms = matrices(point.structure, self.excluded)
        count, mu = state.step + 1, numbers["momentum"]
        rate, decay = numbers["learning_rate"], numbers["weight_decay"]
        rate *= warmup(state.step, self.warmup_steps, rate.dtype)
        momenta, seconds = iter(state.momentum), iter(state.second_moments)
        first, second, directions = [], [], []
        for g, form in zip(point.gradient, forms, strict=True):
            if form is None:
                second.append(average(next(seconds), tf.square(g), self.beta_2))
                numbers_of_adam = count, 0.0, self.beta_2, self.epsilon
                directions.append(adam_direction(g, second[-1], *numbers_of_adam))
            else:
                first.append(average(next(momenta), g, mu))
                directions.append(first[-1])
        directions = orthogonalize_all(directions, forms, self.iterations)
        share = 1 / (tf.cast(count, rate.dtype) + 1)
        mixed = self._mixed(count + 1, rate.dtype)
        ys, zs, xs = [], [], []
        parts = point.parameters, tf.nest.flatten(state.base), tf.nest.flatten(state.average)
        for y, z, x, u, form in zip(*parts, directions, forms, strict=True):
            z -= rate * ((1.0 if form is None else length(form, self.length)) * u + decay * y)
            x = average(x, z, 1 - share)
            ys.append(average(x, z, mixed))
            zs.append(z)
            xs.append(x)
        after = AMUSEState(count, point.pack(zs), point.pack(xs), tuple(first), tuple(second))
        return ys, after

    def _mixed(self, number: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns β of the step of this number, from 1."""
        since = tf.cast(tf.maximum(number, self.warmup_steps), dtype)
        fall = ((self.warmup_steps - 1) / (since - 1)) ** self.exponent
        return 1 - fall * (1 - self.interpolation)
