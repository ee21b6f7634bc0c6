"""The losses of a sum's terms, noted where a step linearizes it, for the step's metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

# Dictionaries of losses, one for each step that is being traced.
_noting: list[dict[str, tf.Tensor]] = []


@contextlib.contextmanager
def noted() -> Iterator[dict[str, tf.Tensor]]:
    """Yields a dictionary that collects the losses of terms inside the block, the first of each."""
    _noting.append({})
    try:
        yield _noting[-1]
    finally:
        _noting.pop()


def note(losses: dict[str, tf.Tensor]) -> None:
    """Adds losses to the dictionary of the innermost `noted`, unless it has them."""
    if _noting:
        for name, loss in losses.items():
            _noting[-1].setdefault(name, loss)
