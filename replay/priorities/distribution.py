"""The interface of the two kinds of prioritization."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Distribution(Protocol):
    """A distribution over the slots of a replay, given by the priorities in them.

    A slot is a place from 0 to capacity - 1. The ids of snapshots count up over the
    life of the replay, so the older of two snapshots has the smaller id.
    """

    def check(self, priority: float) -> None:
        """Raises ValueError for a priority that the distribution cannot represent."""

    def set(self, slot: int, snapshot_id: int, priority: float) -> None:
        """Fills a slot, or changes the priority in it; `check` has accepted the priority."""

    def remove(self, slot: int) -> None:
        """Empties a slot, which then has probability 0."""

    def draw(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """Maps points in [0, 1) to slots by the inverse cumulative distribution, both [k]."""

    def probabilities(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """The probabilities of filled slots, float64 [k]."""

    def smallest_probability(self) -> float:
        """The probability of the least probable filled slot."""


def check_priority(priority: float) -> None:
    """Refuses priorities that no distribution can represent.

    Args:
      priority: The priority.

    Raises:
      ValueError: If the priority is NaN, infinite or negative.
    """
    if not (math.isfinite(priority) and priority >= 0):
        raise ValueError(
            f"expected a finite priority that is not negative, got {priority}. If it is computed "
            "from a loss, look for the step where the loss diverged, and leave that step's "
            "snapshot out or give it a large finite priority."
        )
