"""Who takes part in a grid search: an optimizer and the settings that it may be run with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer and the settings that it may be run with.

    Attributes:
      name: For tables and pictures.
      make: From one of the settings to an optimizer with `init` and `step`.
      grid: The settings: learning rates, or tuples of numbers. A grid of one is not tuned.
      identity: What else its runs depend on: of a meta-optimizer the `weights_digest`.
    """

    name: str
    make: Callable[[Any], Any]
    grid: Sequence[Any]
    identity: str | None = None


def setting_text(setting: Any) -> str:
    """Returns a setting as tables show it."""
    if isinstance(setting, tuple):
        return ", ".join(f"{value:g}" for value in setting)
    return f"{setting:g}"
