"""Training with momentum in fixed point, which runs backwards to its first bits.

    forward  v ← μ v + push · g                         backward  w ← w - move · v
             w ← w + move · v        (the new v)                  v ← (v - push · g) / μ

The product with μ = n / 2¹⁶ keeps the bits that it loses in an information buffer; the sums are
sums of integers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mlhf.hypergrad.dynamics.momentum import FORMS
from mlhf.hypergrad.exact_arithmetic import fixed_point, information_buffer
from mlhf.hypergrad.exact_arithmetic.factors import Factor, Factors


class FixedPointMomentum:
    """Weights and velocities of a training, as integers."""

    def __init__(self, form: str, factors: Factors, weights: np.ndarray, velocity: np.ndarray):
        """Begins a training.

        Args:
          form: A key of `momentum.FORMS`.
          factors: Learning rates and momenta.
          weights: Floats, [P].
          velocity: Floats, [P].

        Raises:
          FixedPointRangeError: If a value does not fit into fixed point.
          ValueError: If a momentum is not above 0 and under 2.
        """
        self.form, self._factors = FORMS[form], factors
        information_buffer.numerator(factors.all_of("momentum"))
        self.weights = fixed_point.to_fixed(weights, "the first weights")
        self.velocity = fixed_point.to_fixed(velocity, "the first velocity")
        self._first = self.weights, self.velocity
        self._floats = self.velocity, fixed_point.to_float(self.velocity)
        self._buffers = [
            information_buffer.InformationBuffer(block.stop - block.start)
            for block in factors.blocks
        ]

    @property
    def nbytes(self) -> int:
        """The memory that the information buffers use, in bytes."""
        return sum(buffer.nbytes for buffer in self._buffers)

    @property
    def bits(self) -> float:
        """The information in the buffers, in bits per weight."""
        total = sum(buffer.bits * buffer.head.size for buffer in self._buffers)
        return total / max(1, self.weights.size)

    @property
    def is_back(self) -> bool:
        """Whether the training is back at its first bits, with nothing left in the buffers."""
        weights, velocity = self._first
        return (
            np.array_equal(self.weights, weights)
            and np.array_equal(self.velocity, velocity)
            and all(buffer.empty for buffer in self._buffers)
        )

    def float_velocity(self) -> np.ndarray:
        """Returns the velocity in float64; converts it only if it changed since the last call."""
        converted, floats = self._floats
        if converted is not self.velocity:
            floats = fixed_point.to_float(self.velocity)
            self._floats = self.velocity, floats
        return floats

    def momentum(self, step: int) -> list[Factor]:
        """Returns the μ of a step for each block, quantised as the arithmetic uses it."""
        return [information_buffer.quantize_decay(mu) for mu in self._factors.at("momentum", step)]

    def push(self, step: int) -> list[Factor]:
        """Returns the factor that multiplies the gradient in a step, for each block."""
        rates = self._factors.at("learning_rate", step)
        return [
            self.form.push(rate, mu) for rate, mu in zip(rates, self.momentum(step), strict=True)
        ]

    def move(self, step: int) -> list[Factor]:
        """Returns the factor that multiplies the velocity in a step, for each block."""
        return [self.form.move(rate) for rate in self._factors.at("learning_rate", step)]

    def forward(self, step: int, gradient: np.ndarray) -> None:
        """Takes a step.

        Args:
          step: The number of the step.
          gradient: Floats, [P].

        Raises:
          FixedPointRangeError: If weights or velocities leave the range.
        """
        shrunk = np.empty_like(self.velocity)
        for block, buffer, n in self._blocks(step):
            shrunk[block] = buffer.multiply(self.velocity[block], n)
        self.velocity = fixed_point.add(shrunk, self._pushed(step, gradient), "the velocity")
        self.weights = fixed_point.add(self.weights, self._moved(step), "the weights")

    def undo_move(self, step: int) -> None:
        """Takes the weights back to before a step."""
        self.weights = fixed_point.take_back(self.weights, self._moved(step))

    def undo_push(self, step: int, gradient: np.ndarray) -> None:
        """Takes the velocity back to before a step, after `undo_move`, with the same gradient."""
        shrunk = fixed_point.take_back(self.velocity, self._pushed(step, gradient))
        velocity = np.empty_like(shrunk)
        for block, buffer, n in self._blocks(step):
            velocity[block] = buffer.undo_multiply(shrunk[block], n)
        self.velocity = velocity

    def _pushed(self, step: int, gradient: np.ndarray) -> np.ndarray:
        pushed = self._factors.times(self.push(step), gradient.astype(np.float64, copy=False))
        return fixed_point.to_fixed(pushed, "the gradient")

    def _moved(self, step: int) -> np.ndarray:
        moved = self._factors.times(self.move(step), self.float_velocity())
        return fixed_point.to_fixed(moved, "the change of the weights")

    def _blocks(
        self, step: int
    ) -> Iterator[tuple[slice, information_buffer.InformationBuffer, Factor]]:
        """Returns each block with its information buffer and the numerator of its momentum."""
        numerators = map(information_buffer.numerator, self._factors.at("momentum", step))
        return zip(self._factors.blocks, self._buffers, numerators, strict=True)
