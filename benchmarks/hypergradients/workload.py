"""The training that every method differentiates, in NumPy: weights, data, batches, constants."""

from __future__ import annotations

import dataclasses

import numpy as np

EXAMPLES, VALIDATION, BATCH = 5000, 1000, 50
INPUTS, CLASSES, HIDDEN_LAYERS = 784, 10, 3
LEARNING_RATE, LOG_L2 = 0.01, -7.0
# A multiple of 2⁻¹⁶, as `reversible` rounds it.
MOMENTUM = 58982 / 65536


@dataclasses.dataclass(frozen=True)
class Workload:
    """A tanh network on noisy classes, trained by momentum (v' = μ v + g, w' = w - η v').

    The hyperparameters are η and `columns` - 1 logarithms of penalties, each for a slice of the
    first layer's inputs; with two columns, one penalty for that whole layer.

    Attributes:
      steps: The number of steps, T.
      hidden: The width of the three hidden layers.
      columns: The number of hyperparameters, H.
      dtype: "float32" or "float64".
    """

    steps: int
    hidden: int = 50
    columns: int = 2
    dtype: str = "float32"

    @property
    def sizes(self) -> list[int]:
        """The widths of all layers."""
        return [INPUTS, *[self.hidden] * HIDDEN_LAYERS, CLASSES]

    @property
    def parameters(self) -> int:
        """The number of weights, P."""
        return sum(a * b + b for a, b in zip(self.sizes[:-1], self.sizes[1:], strict=True))

    def weights(self) -> list[np.ndarray]:
        """Returns kernels and biases alternately."""
        random = np.random.default_rng(0)
        found = []
        for size, out in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            kernel = random.normal(size=[size, out]) / np.sqrt(size)
            # The same numbers in both dtypes.
            found += [kernel.astype(np.float32).astype(self.dtype), np.zeros(out, self.dtype)]
        return found

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs [N, 784] and labels [N]; the last 1,000 are the validation set."""
        random = np.random.default_rng(1)
        total = EXAMPLES + VALIDATION
        labels = random.integers(0, CLASSES, total)
        means = random.normal(size=[CLASSES, INPUTS]) / 8
        inputs = means[labels] + random.normal(size=[total, INPUTS])
        return inputs.astype(np.float32).astype(self.dtype), labels.astype(np.int32)

    def batches(self) -> np.ndarray:
        """Returns the examples of every step, int32 [T, B]."""
        random = np.random.default_rng(2)
        epochs = -(-self.steps * BATCH // EXAMPLES)
        order = np.concatenate([random.permutation(EXAMPLES) for _ in range(epochs)])
        return order[: self.steps * BATCH].reshape(self.steps, BATCH).astype(np.int32)

    def penalty_of_input(self) -> np.ndarray:
        """Returns for each input the index of its penalty, int32 [784]."""
        return (np.arange(INPUTS) * max(1, self.columns - 1) // INPUTS).astype(np.int32)

    def log_l2(self) -> np.ndarray:
        """Returns the logarithms of the penalties, [H - 1]."""
        return np.full([self.columns - 1], LOG_L2, self.dtype)
