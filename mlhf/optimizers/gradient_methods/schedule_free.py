"""AdamW without a schedule, by averaging (Defazio et al. 2024)."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_count, check_number
from mlhf.optimizers.gradient_methods.method import (
    GradientMethod,
    Leaves,
    Point,
    average,
    bias,
    zeros_like,
)
from mlhf.optimizers.settings import Fixed


class ScheduleFreeState(NamedTuple):
    """The state of schedule-free AdamW; structures are those of the parameters."""

    step: tf.Tensor  # int32, the number of steps taken
    largest_rate: tf.Tensor  # the largest learning rate so far
    weight_sum: tf.Tensor  # the sum of the weights of the average
    base: Any  # z, where steps without averaging have led
    second_moments: Any  # v, averages of the squared gradients


class ScheduleFreeAdamW(GradientMethod):
    """AdamW that steps from z, takes gradients at y and is evaluated at x (arXiv 2405.15682).

        y = (1 - β₁) z + β₁ x            where the gradient g is taken
        z ← z - lr (g / (√v̂ + ε) + c y)  the step
        x ← (1 - a) x + a z              the average, with a = lr² / Σ lr²

    The parameters that a step takes and returns are y. What to evaluate, test and keep at the end
    is x: `evaluation_parameters(parameters, state)`.
    """

    _averages = True
    beta_1, beta_2, epsilon, warmup_steps = Fixed(), Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        learning_rate: Any = 0.0025,
        *,
        weight_decay: Any = 0.0,
        warmup_steps: int = 0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          learning_rate: lr, positive: a number, a tensor, a variable, or a function of the steps
            taken. It is not meant to fall.
          weight_decay: c, the decoupled weight decay, of y.
          warmup_steps: The number of steps over which lr rises linearly to its value.
          beta_1: β₁, above 0 and below 1: how much of y is the average.
          beta_2: The share of the average of squares that a step keeps.
          epsilon: ε.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        super().__init__(learning_rate, weight_decay, jit_compile)
        self.warmup_steps = check_count("warmup_steps", warmup_steps, 0)
        self.beta_1 = check_number("beta_1", beta_1, above=0, below=1)
        self.beta_2 = check_number("beta_2", beta_2, at_least=0, below=1)
        self.epsilon = check_number("epsilon", epsilon, at_least=0)

    def evaluation_parameters(self, parameters: Any, state: ScheduleFreeState) -> Any:
        """Returns x = (y - (1 - β₁) z) / β₁, the parameters to evaluate.

        Args:
          parameters: y, the parameters of the last step.
          state: The state of the last step.
        """
        beta = self.beta_1
        # TensorFlow multiplies in a graph, and divides outside, if it is told to divide.
        return tf.nest.map_structure(
            lambda y, z: (y - (1 - beta) * z) * (1 / beta), parameters, state.base
        )

    def _initial(self, parameters: Any) -> ScheduleFreeState:
        leaves = tf.nest.flatten(parameters)
        zero = tf.zeros([], leaves[0].dtype)
        return ScheduleFreeState(
            tf.constant(0),
            zero,
            zero,
            tf.nest.map_structure(tf.identity, parameters),
            tf.nest.pack_sequence_as(parameters, zeros_like(leaves)),
        )

    def _rule(
        self, point: Point, state: ScheduleFreeState, numbers: dict[str, tf.Tensor]
    ) -> tuple[Leaves, ScheduleFreeState]:
        count, rate, decay = state.step + 1, numbers["learning_rate"], numbers["weight_decay"]
        rate *= warmup(state.step, self.warmup_steps, rate.dtype)
        largest = tf.maximum(state.largest_rate, rate)
        weight = tf.square(largest)
        weight_sum = state.weight_sum + weight
        share = tf.math.divide_no_nan(weight, weight_sum)
        beta, unbiased = self.beta_1, bias(self.beta_2, count, rate.dtype)
        ys, zs, second = [], [], []
        parts = point.parameters, tf.nest.flatten(state.base), point.gradient
        for y, z, g, v in zip(*parts, tf.nest.flatten(state.second_moments), strict=True):
            v = average(v, tf.square(g), self.beta_2)
            direction = tf.math.divide_no_nan(g, tf.sqrt(v / unbiased) + self.epsilon) + decay * y
            # y of x and z after the step, x out of y and z before it.
            y = average(y, z, 1 - share) + rate * (beta * (1 - share) - 1) * direction
            ys.append(y)
            zs.append(z - rate * direction)
            second.append(v)
        after = ScheduleFreeState(count, largest, weight_sum, point.pack(zs), point.pack(second))
        return ys, after


def warmup(step: tf.Tensor, steps: int, dtype: tf.DType) -> tf.Tensor:
    """Returns the factor of a learning rate that rises linearly to 1.

    Args:
      step: The number of steps taken, int32.
      steps: The number of steps of the rise; 0 for none.
      dtype: The dtype of the factor.
    """
    if not steps:
        return tf.ones([], dtype)
    return tf.cast(tf.minimum((tf.cast(step, tf.float64) + 1) / steps, 1.0), dtype)
