"""Proportional prioritization."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from replay.priorities.distribution import check_priority
from replay.priorities.sum_tree import SumTree


class Proportional:
    """P(i) = (p_i + ε)^α / Σ_j (p_j + ε)^α, for priorities p_i.

    ε keeps a snapshot of priority 0 reachable (Schaul et al. 2016, arXiv 1511.05952, section 3.3,
    equation 1 with the proportional variant, and its appendix B.2.1 on the sum tree).
    """

    def __init__(self, capacity: int, alpha: float, eps: float) -> None:
        """Makes a distribution over `capacity` empty slots.

        Args:
          capacity: The number of slots.
          alpha: α; 0 is uniform.
          eps: ε, positive.

        Raises:
          ValueError: If eps is not positive and finite, or eps^alpha is 0 or too large in float64.
        """
        if not (math.isfinite(eps) and eps > 0):
            raise ValueError(
                f"expected a finite eps > 0, got {eps}: without it a snapshot of priority 0 could "
                "never be sampled again"
            )
        self._alpha = alpha
        self._eps = eps
        self._tree = SumTree(capacity)
        if self._power(0.0) == 0:
            raise ValueError(
                f"eps={eps} to the power alpha={alpha} is 0; choose a larger eps or a smaller alpha"
            )
        self.check(0.0)

    def check(self, priority: float) -> None:
        """See `Distribution`. O(1)."""
        check_priority(priority)
        if not math.isfinite(self._power(priority) * len(self._tree)):
            raise ValueError(
                f"priority {priority} to the power alpha={self._alpha} overflows; scale the "
                'priorities down, or use priority="rank", which reads their order only'
            )

    def set(self, slot: int, snapshot_id: int, priority: float) -> None:
        """See `Distribution`. O(log n)."""
        self._tree.set(slot, self._power(priority))

    def remove(self, slot: int) -> None:
        """See `Distribution`. O(log n)."""
        self._tree.set(slot, 0.0)

    def draw(self, points: NDArray[np.float64]) -> NDArray[np.int64]:
        """See `Distribution`. O(k log n)."""
        # A point next to 1 can be rounded up to the total, which no leaf owns.
        end = np.nextafter(self._tree.total, 0.0)
        return self._tree.find(np.minimum(points * self._tree.total, end))

    def probabilities(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Distribution`. O(k)."""
        masses: NDArray[np.float64] = self._tree.values[slots]
        return masses / self._tree.total

    def smallest_probability(self) -> float:
        """See `Distribution`. O(n), vectorized: microseconds at 10,000 slots."""
        masses = self._tree.values
        return float(masses[masses > 0].min() / self._tree.total)  # empty slots hold 0

    def _power(self, priority: float) -> float:
        try:
            return float((priority + self._eps) ** self._alpha)
        except OverflowError:
            return math.inf
