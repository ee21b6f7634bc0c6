"""Whether a compiled gradient gives the same bits every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class NotDeterministicError(RuntimeError):
    """The same computation gave other bits; a training can't be run backwards with it."""


def probe(
    gradient: Callable[[int], np.ndarray],
    steps: Sequence[int],
    repeats: int,
) -> None:
    """Computes gradients again and again at one point.

    Args:
      gradient: From a step to the gradient in it, at weights that stay the same.
      steps: Which steps.
      repeats: How often each is computed, at least 2.

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
