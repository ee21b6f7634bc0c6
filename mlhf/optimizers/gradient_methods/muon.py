"""Muon: momentum orthogonalized by Newton-Schulz iterations (Jordan 2024)."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count, check_number
from mlhf.optimizers.gradient_methods.method import GradientMethod, Leaves, Point
from mlhf.optimizers.gradient_methods.orthogonal_momentum import Moments, OrthogonalMomentum
from mlhf.optimizers.orthogonalization import Matrix, matrices
from mlhf.optimizers.settings import Fixed, Number

LENGTHS = ("rms", "width")


class MuonState(NamedTuple):
    """The state of Muon."""

    step: tf.Tensor  # int32, the number of steps taken
    momentum: Any  # averages of the gradients, in the structure of the parameters
    second_moments: tuple[tf.Tensor, ...]  # averages of squares, of those that Adam moves


def length(form: Matrix, kind: str) -> float:
    """Returns how long the step of an orthogonalized kernel is at a learning rate of 1.

    Args:
      form: The kernel as a matrix.
      kind: `"rms"` for 0.2 √(longer side), at which the root mean square of the step's entries is
        close to that of Adam's (Liu et al. 2025, arXiv 2502.16982); `"width"` for
        √max(1, outputs / inputs) (Jordan 2024).
    """
    if kind == "rms":
        return 0.2 * math.sqrt(form.sides[0])
    return math.sqrt(max(1.0, form.columns / form.rows))


class Muon(GradientMethod):
    """w ← w - lr · length · orthogonalized(momentum), for all kernels; Adam for the rest.

    Kernels of any rank are matrices from inputs to outputs: a convolution's [height, width, in,
    out] is [height · width · in, out]. With an average m ← μ m + (1 - μ) g of the gradients, the
    direction is m, or μ m + (1 - μ) g with Nesterov's momentum, with all its singular values
    brought close to 1. Embeddings, biases, scales and the kernels that `excluded` names are moved
    by Adam, with the same learning rate and decay.

    Attributes:
      momentum: μ; a new value holds from the next step on.
    """

    momentum = Number(at_least=0, below=1)
    nesterov, length, iterations, excluded = Fixed(), Fixed(), Fixed(), Fixed()
    beta_1, beta_2, epsilon = Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        learning_rate: Any = 0.02,
        momentum: Any = 0.95,
        *,
        nesterov: bool = True,
        weight_decay: Any = 0.0,
        length: str = "rms",
        iterations: int = 5,
        excluded: Collection[str] = (),
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          learning_rate: lr, positive: a number, a tensor, a variable, or a function of the steps
            taken, such as an `mlhf.Schedule`.
          momentum: μ, at least 0 and below 1.
          nesterov: Whether the gradient is mixed in once more.
          weight_decay: The decoupled weight decay of all parameters.
          length: The length of a step: `"rms"`, 0.2 √(longer side), or `"width"`,
            √max(1, outputs / inputs), for which usual learning rates are about ten times as large
            or small, depending on the layer.
          iterations: The number of Newton-Schulz iterations.
          excluded: Kernels that Adam moves too, such as the output layer: paths, or whole parts of
            them (`["logits"]`).
          beta_1: Adam's share of the average of gradients that a step keeps.
          beta_2: Adam's share of the average of squares that a step keeps.
          epsilon: Adam's ε.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        super().__init__(learning_rate, weight_decay, jit_compile)
        self.momentum = momentum
        self.nesterov = check_choice("nesterov", nesterov, (True, False))
        self.length = check_choice("length", length, LENGTHS)
        self.iterations = check_count("iterations", iterations, 0)
        self.excluded = names(excluded)
        self.beta_1 = check_number("beta_1", beta_1, at_least=0, below=1)
        self.beta_2 = check_number("beta_2", beta_2, at_least=0, below=1)
        self.epsilon = check_number("epsilon", epsilon, at_least=0)

    def _rule_of(self, structure: Any, momentum: Any) -> OrthogonalMomentum:
        forms = matrices(structure, self.excluded)
        adam = self.beta_1, self.beta_2, self.epsilon
        return OrthogonalMomentum(forms, momentum, self.nesterov, self.iterations, *adam)

    def _initial(self, parameters: Any) -> MuonState:
        # The first moments do not depend on μ.
        momentum, second = self._rule_of(parameters, 0.0).initial(tf.nest.flatten(parameters))
        packed = tf.nest.pack_sequence_as(parameters, momentum)
        return MuonState(tf.constant(0), packed, tuple(second))

    def _rule(
        self, point: Point, state: MuonState, numbers: dict[str, tf.Tensor]
    ) -> tuple[Leaves, MuonState]:
        rule, count = self._rule_of(point.structure, numbers["momentum"]), state.step + 1
        moments = Moments(tf.nest.flatten(state.momentum), list(state.second_moments))
        directions, (first, second) = rule.directions(point.gradient, moments, count)
        rate, decay = numbers["learning_rate"], numbers["weight_decay"]
        moved = [
            w - rate * ((1.0 if form is None else length(form, self.length)) * u + decay * w)
            for w, u, form in zip(point.parameters, directions, rule.forms, strict=True)
        ]
        return moved, MuonState(count, point.pack(first), tuple(second))


def names(excluded: Collection[str]) -> tuple[str, ...]:
    """Returns names of parameters as a tuple; a single one may be a string (command lines)."""
    return (excluded,) if isinstance(excluded, str) else tuple(excluded)
