"""Rank-based prioritization."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from replay.priorities.distribution import check_priority


class RankBased:
    """P(i) = rank(i)^-α / Σ_j rank(j)^-α, where rank 1 has the largest priority.

    Among equal priorities the older snapshot has the smaller rank, that is, the larger probability.
    Only the order of the priorities counts, so outliers and the scale of the loss do not matter
    (Schaul et al. 2016, arXiv 1511.05952, section 3.3, equation 1 with p_i = 1 / rank(i)).

    The order is sorted when it is next needed after a change: O(n log n), a millisecond at 10,000
    snapshots. A draw is then O(log n).
    """

    def __init__(self, capacity: int, alpha: float) -> None:
        """Makes a distribution over `capacity` empty slots.

        Args:
          capacity: The number of slots.
          alpha: α; 0 is uniform.

        Raises:
          ValueError: If the last rank would have the probability 0 in float64.
        """
        self._mass = np.arange(1, capacity + 1, dtype=np.float64) ** -alpha
        if self._mass[-1] == 0:
            raise ValueError(
                f"alpha={alpha} gives rank {capacity} the probability 0; choose a smaller alpha"
            )
        self._priorities = np.full(capacity, -1.0)  # below every priority: empty slots sort last
        self._ids = np.zeros(capacity, dtype=np.int64)
        self._count = 0
        self._cumulative = np.zeros(0)
        self._slot_of_rank = np.zeros(0, dtype=np.int64)
        self._rank_of_slot = np.zeros(capacity, dtype=np.int64)
        self._sorted = True

    def check(self, priority: float) -> None:
        """See `Distribution`. O(1)."""
        check_priority(priority)

    def set(self, slot: int, snapshot_id: int, priority: float) -> None:
        """See `Distribution`. O(1)."""
        self._count += self._priorities[slot] < 0
        self._priorities[slot] = priority
        self._ids[slot] = snapshot_id
        self._sorted = False

    def remove(self, slot: int) -> None:
        """See `Distribution`. O(1)."""
        self._count -= self._priorities[slot] >= 0
        self._priorities[slot] = -1.0
        self._sorted = False

    def draw(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """See `Distribution`. O(k log n), and O(n log n) after a change."""
        self._sort()
        ranks = np.searchsorted(self._cumulative, points * self._cumulative[-1], side="right")
        # A point next to 1 can be rounded up to the very end.
        slots: NDArray[np.int64] = self._slot_of_rank[np.minimum(ranks, self._count - 1)]
        return slots

    def probabilities(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Distribution`. O(k), and O(n log n) after a change."""
        self._sort()
        masses = self._mass[self._rank_of_slot[slots]]
        probabilities: NDArray[np.float64] = masses / self._cumulative[-1]
        return probabilities

    def smallest_probability(self) -> float:
        """See `Distribution`. O(1), and O(n log n) after a change."""
        self._sort()
        return float(self._mass[self._count - 1] / self._cumulative[-1])

    def _sort(self) -> None:
        if self._sorted:
            return
        # By falling priority; among equals by rising id, the older first.
        order = np.lexsort((self._ids, -self._priorities))
        self._slot_of_rank = order[: self._count].astype(np.int64)
        self._rank_of_slot[self._slot_of_rank] = np.arange(self._count)
        self._cumulative = np.cumsum(self._mass[: self._count])
        self._sorted = True
