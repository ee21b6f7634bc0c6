"""What a network returns aside from the outputs that its loss compares, kept for whoever asks.

A step linearizes a batch inside a compiled function, and returns numbers only. The metrics of a
training loop compare the model's outputs, which the step's forward pass has computed: a network
notes them here, a compiled step hands them on, and the loop finds them, without another pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

# Lists of structures of tensors, one for each function that is being traced.
_noting: list[list[Any]] = []


@contextlib.contextmanager
def noted() -> Iterator[list[Any]]:
    """Yields a list that collects what networks note inside the block, in the order of calls."""
    _noting.append([])
    try:
        yield _noting[-1]
    finally:
        _noting.pop()


def note(structure: Any) -> None:
    """Adds a structure of tensors to the list of the innermost `noted`."""
    if _noting:
        _noting[-1].append(structure)
