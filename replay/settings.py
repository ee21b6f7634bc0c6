"""The settings of a replay: the constructor's arguments, which a saved state names too."""

from __future__ import annotations

import math
import operator
from typing import Any, Literal, TypeAlias

Priority: TypeAlias = Literal["rank", "proportional"]
SETTINGS = {"capacity", "priority", "alpha", "beta", "beta_steps", "eps"}


def checked_settings(
    capacity: int, priority: str, alpha: float, beta: float, beta_steps: int | None, eps: float
) -> dict[str, Any]:
    """Checks the arguments of a replay's constructor; `PriorityIndex` checks alpha and eps further.

    Args:
      capacity: The number of snapshots, at least 1.
      priority: "rank" or "proportional".
      alpha: The exponent α, not negative.
      beta: The exponent β at step 0, from 0 to 1.
      beta_steps: The number of steps until β is 1, at least 1, or None.
      eps: The constant ε.

    Returns:
      The arguments by name, as int, float, str or None.

    Raises:
      ValueError: If an argument is out of its range.
    """
    if operator.index(capacity) < 1:
        raise ValueError(f"expected a capacity of at least 1, got {capacity}")
    if priority not in ("rank", "proportional"):
        raise ValueError(f'expected priority="rank" or "proportional", got {priority!r}')
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"expected a finite alpha that is not negative, got {alpha}")
    if not 0 <= beta <= 1:
        raise ValueError(f"expected a beta from 0 to 1, got {beta}")
    if beta_steps is not None and operator.index(beta_steps) < 1:
        raise ValueError(f"expected beta_steps of at least 1, or None, got {beta_steps}")
    return {
        "capacity": operator.index(capacity),
        "priority": priority,
        "alpha": float(alpha),
        "beta": float(beta),
        "beta_steps": None if beta_steps is None else operator.index(beta_steps),
        "eps": float(eps),
    }
