"""Checks that a compiled gradient has the same bits every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class NotDeterministicError(RuntimeError):
    """Raised when a repeated computation has other bits, so that training can't run backwards."""


def probe(
    gradient: Callable[[int], np.ndarray],
    steps: Sequence[int],
    repeats: int,
) -> None:
    """Computes the gradients of some steps repeatedly, at the same weights.

    Args:
      gradient: A function from a step to its gradient at these weights.
      steps: The steps to compute.
      repeats: The number of times each is computed, at least 2.

    Raises:
      NotDeterministicError: If a repetition differs in a bit.
    """
    first = {step: np.array(gradient(step)) for step in steps}
    for _ in range(repeats - 1):
        for step in steps:
            again = gradient(step)
            if same_bits(again, first[step]):
                continue
            apart = float(np.nanmax(np.abs(again - first[step])))
            raise NotDeterministicError(
                f"Expected the gradient of step {step} to have the same bits each time, but two "
                f"calls differ by up to {apart:.2g}: training can't be run backwards. Draw "
                "batches, dropout and augmentation as pure functions of `step` and `seed` "
                "(tf.random.stateless_*); if the loss is pure, call "
                "tf.config.experimental.enable_op_determinism() at the start; or use `reverse`, "
                "which stores states."
            )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Returns whether two float arrays are equal bit for bit, a NaN equal to itself."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
