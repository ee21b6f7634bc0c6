"""Evolution strategies for a controller's weights: perturbations, and Adam on their estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlhf.meta_optimizer.step_controller import ControllerWeights

# The weights that are learned by default: the maps from what a row sees, not the LSTM beside them.
LINEAR = ("lengths", "momentum")
ALL = ControllerWeights._fields
# Perturbations of the LSTM's kernels and biases, as a share of those of the maps.
_KERNELS = 0.3
# Of a gap between two sides, in units of the task's usual one, what counts at most.
_LARGEST_GAP = 2.0


class Strategy:
    """Weights, and Adam's averages of the estimates that they followed.

    An estimate is in units of the perturbations' deviations σ, and so is the rate (Salimans et al.
    2017, arXiv 1703.03864).

    Attributes:
      weights: The controller's weights.
      generation: The number of estimates followed.
    """

    def __init__(
        self,
        weights: ControllerWeights,
        learned: Sequence[str] = LINEAR,
        deviation: float = 0.1,
    ) -> None:
        """Sets a strategy up before its first generation.

        Args:
          weights: The weights to begin with.
          learned: The names of those that are learned.
          deviation: σ; three tenths of it for the LSTM's kernels and biases.
        """
        self.weights, self.generation, self._learned = weights, 0, tuple(learned)
        sizes = [np.size(getattr(weights, name)) for name in self._learned]
        of_maps = (*LINEAR, "outputs")
        shares = [1.0 if name in of_maps else _KERNELS for name in self._learned]
        self.deviations = deviation * np.repeat(shares, sizes)
        self._first, self._second = np.zeros(sum(sizes)), np.zeros(sum(sizes))
        self._usual: np.ndarray | None = None

    def moved(self, by: np.ndarray) -> ControllerWeights:
        """Returns the weights with a vector added to those that are learned."""
        new, first = {}, 0
        for name in self._learned:
            value = np.asarray(getattr(self.weights, name))
            part = by[first : first + value.size].reshape(value.shape)
            new[name] = (value + part).astype(np.float32)
            first += value.size
        return self.weights._replace(**new)

    def sides(self, noise: np.ndarray) -> tuple[ControllerWeights, ControllerWeights]:
        """Returns θ + σε and θ - σε for a noise ε."""
        by = self.deviations * noise
        return self.moved(by), self.moved(-by)

    def estimate(self, noises: np.ndarray, gaps: np.ndarray) -> np.ndarray:
        """Returns the estimate of the gradient, in units of σ.

        Args:
          noises: The noise ε of each task, [tasks, learned].
          gaps: What the side θ + σε of each task has more than the other, [tasks]. Each counts in
            units of the task's own average over generations: what is left of a loss near zero
            varies a hundred times as much as what is left of another.
        """
        now = np.clip(np.abs(gaps), 1e-4, 1.0)
        self._usual = now if self._usual is None else 0.9 * self._usual + 0.1 * now
        shaped = np.clip(gaps / self._usual, -_LARGEST_GAP, _LARGEST_GAP)
        return np.asarray(np.mean(shaped[:, None] / 2 * noises, 0))

    def follow(self, gradient: np.ndarray, rate: float) -> None:
        """Takes Adam's step (0.9, 0.98) against an estimate.

        Args:
          gradient: The estimate.
          rate: The step, in units of σ.
        """
        self.generation += 1
        self._first = 0.9 * self._first + 0.1 * gradient
        self._second = 0.98 * self._second + 0.02 * gradient**2
        first = self._first / (1 - 0.9**self.generation)
        second = self._second / (1 - 0.98**self.generation)
        self.weights = self.moved(-rate * self.deviations * first / (np.sqrt(second) + 1e-8))

    def state(self) -> dict[str, Any]:
        """Returns what a continued run needs, arrays."""
        return {
            "weights": {name: np.asarray(v) for name, v in self.weights._asdict().items()},
            "generation": self.generation,
            "first": self._first,
            "second": self._second,
            "usual": np.zeros(0) if self._usual is None else self._usual,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what `state` returned.

        Raises:
          ValueError: If it is of another number of weights.
        """
        first = np.asarray(saved["first"], float)
        if first.shape != self._first.shape:
            raise ValueError(f"expected averages of {self._first.size} weights, got {first.size}")
        weights = saved["weights"]
        self.weights = ControllerWeights(*[np.asarray(weights[n], np.float32) for n in ALL])
        self.generation = int(saved["generation"])
        self._first, self._second = first, np.asarray(saved["second"], float)
        usual = np.asarray(saved["usual"], float)
        self._usual = usual if usual.size else None
