"""Prodigy: Adam whose learning rate is estimated (Mishchenko and Defazio 2023)."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_number
from mlhf.optimizers.gradient_methods.method import (
    GradientMethod,
    Leaves,
    Point,
    average,
    bias,
    zeros_like,
)
from mlhf.optimizers.settings import Fixed


class ProdigyState(NamedTuple):
    """The state of Prodigy; structures are those of the parameters."""

    step: tf.Tensor  # int32, the number of steps taken
    distance: tf.Tensor  # d, the estimate of the distance from the start to a solution
    numerator: tf.Tensor  # r, the weighted sum of <g, w₀ - w>
    sums: Any  # s, the weighted sums of the gradients
    first_moments: Any  # m, averages of d g
    second_moments: Any  # v, averages of d² g²
    start: Any  # w₀, the first parameters


class Prodigy(GradientMethod):
    """Adam with the learning rate d · lr, where d estimates the distance ‖w₀ - w*‖∞.

    With λ = d · lr and β₃ = √β₂ (Algorithm 4 of arXiv 2306.06101):

        m ← β₁ m + (1 - β₁) d g        r ← β₃ r + (d / d₀) λ <g, w₀ - w>
        v ← β₂ v + (1 - β₂) d² g²      s ← β₃ s + (d / d₀) λ g
        d ← max(d, r / ‖s‖₁)           w ← w - λ (m / (√v + d ε) + c w)

    where the last line has the λ of before and the d of after. The learning rate lr stays at 1, or
    is a schedule that begins at 1: nothing is tuned.
    """

    beta_1, beta_2, epsilon = Fixed(), Fixed(), Fixed()
    initial_distance, bias_correction, safeguard_warmup = Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        learning_rate: Any = 1.0,
        *,
        weight_decay: Any = 0.0,
        initial_distance: float = 1e-6,
        bias_correction: bool = False,
        safeguard_warmup: bool = False,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          learning_rate: lr, positive: a number, a tensor, a variable, or a function of the steps
            taken, such as an `mlhf.Schedule`.
          weight_decay: c, the decoupled weight decay.
          initial_distance: d₀, the first estimate of the distance, which should be too small.
          bias_correction: Whether λ has Adam's factor √(1 - β₂ᵗ) / (1 - β₁ᵗ).
          safeguard_warmup: Whether s is weighted by d instead of λ, for a learning rate that is
            warmed up.
          beta_1: β₁, the share of the average of gradients that a step keeps.
          beta_2: β₂, the share of the average of squares that a step keeps.
          epsilon: ε.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        super().__init__(learning_rate, weight_decay, jit_compile)
        self.initial_distance = check_number("initial_distance", initial_distance, above=0)
        self.bias_correction = check_choice("bias_correction", bias_correction, (True, False))
        self.safeguard_warmup = check_choice("safeguard_warmup", safeguard_warmup, (True, False))
        self.beta_1 = check_number("beta_1", beta_1, at_least=0, below=1)
        self.beta_2 = check_number("beta_2", beta_2, at_least=0, below=1)
        self.epsilon = check_number("epsilon", epsilon, at_least=0)

    def _initial(self, parameters: Any) -> ProdigyState:
        leaves = tf.nest.flatten(parameters)
        dtype = leaves[0].dtype

        def zeros() -> Any:
            return tf.nest.pack_sequence_as(parameters, zeros_like(leaves))

        return ProdigyState(
            tf.constant(0),
            tf.constant(self.initial_distance, dtype),
            tf.zeros([], dtype),
            zeros(),
            zeros(),
            zeros(),
            tf.nest.map_structure(tf.identity, parameters),
        )

    def _rule(
        self, point: Point, state: ProdigyState, numbers: dict[str, tf.Tensor]
    ) -> tuple[Leaves, ProdigyState]:
        d, count, dtype = state.distance, state.step + 1, state.distance.dtype
        rate = d * numbers["learning_rate"]
        if self.bias_correction:
            rate *= tf.sqrt(bias(self.beta_2, count, dtype)) / bias(self.beta_1, count, dtype)
        kept, weight = self.beta_2**0.5, d / self.initial_distance
        flat = tf.nest.flatten
        gradient, w = point.gradient, point.parameters
        first = [
            average(m, d * g, self.beta_1)
            for m, g in zip(flat(state.first_moments), gradient, strict=True)
        ]
        second = [
            average(v, tf.square(d * g), self.beta_2)
            for v, g in zip(flat(state.second_moments), gradient, strict=True)
        ]
        weight_of_sums = weight * (d if self.safeguard_warmup else rate)
        sums = [
            kept * s + weight_of_sums * g for s, g in zip(flat(state.sums), gradient, strict=True)
        ]
        slope = tf.add_n(
            [
                tf.reduce_sum(g * (start - now))
                for g, start, now in zip(gradient, flat(state.start), w, strict=True)
            ]
        )
        numerator = kept * state.numerator + weight * rate * slope
        norm = tf.add_n([tf.reduce_sum(tf.abs(s)) for s in sums])
        # Without any gradient so far there is no estimate.
        estimate = numerator / tf.where(norm > 0, norm, tf.ones_like(norm))
        distance = tf.maximum(d, estimate)
        decay = numbers["weight_decay"]
        moved = [
            x - rate * (_ratio(m, tf.sqrt(v) + distance * self.epsilon) + decay * x)
            for x, m, v in zip(w, first, second, strict=True)
        ]
        after = ProdigyState(
            count,
            distance,
            numerator,
            point.pack(sums),
            point.pack(first),
            point.pack(second),
            state.start,
        )
        return moved, after


def _ratio(first: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """Returns m / (√v + d ε), 0 where d ε underflows and no gradient came yet."""
    return tf.math.divide_no_nan(first, denominator)
