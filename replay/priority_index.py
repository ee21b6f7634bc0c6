"""The snapshots of a replay by id, each with its slot and its priority."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.priorities.distribution import Distribution
from replay.priorities.proportional import Proportional
from replay.priorities.rank_based import RankBased
from replay.state import Entry


class PriorityIndex:
    """Everything that a replay knows about its snapshots, except their contents.

    It keeps the entries by id consistent with a distribution over their slots. A new snapshot takes
    the smallest free slot, so the slots depend on the order of insertions and removals alone.

    Attributes:
      entries: An `Entry` for each id, oldest first; only to be read.
    """

    def __init__(self, settings: dict[str, Any], entries: dict[int, Entry] | None = None) -> None:
        """Makes an index.

        Args:
          settings: The replay's settings, of which capacity, priority, alpha and eps are read.
          entries: The first entries by id; the dict then belongs to the index.

        Raises:
          ValueError: If alpha, eps or a priority is out of its range.
        """
        capacity = settings["capacity"]
        self._distribution: Distribution
        if settings["priority"] == "rank":
            self._distribution = RankBased(capacity, settings["alpha"])
        else:
            self._distribution = Proportional(capacity, settings["alpha"], settings["eps"])
        self.entries: dict[int, Entry] = entries or {}
        self._id_of_slot = np.full(capacity, -1, dtype=np.int64)
        for snapshot_id, entry in self.entries.items():
            self._distribution.check(entry.priority)
            self._distribution.set(entry.slot, snapshot_id, entry.priority)
            self._id_of_slot[entry.slot] = snapshot_id
        # A sorted list is a heap.
        self._free_slots: list[int] = np.flatnonzero(self._id_of_slot < 0).tolist()

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids, oldest first, int64 [n]. O(n)."""
        return np.fromiter(self.entries, dtype=np.int64, count=len(self.entries))

    @property
    def priorities(self) -> NDArray[np.float64]:
        """The priorities in the order of the ids, float64 [n]. O(n)."""
        return np.array([entry.priority for entry in self.entries.values()], dtype=np.float64)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """The probabilities in the order of the ids, float64 [n]. O(n) plus sorting."""
        if not self.entries:
            return np.zeros(0)
        slots = np.array([entry.slot for entry in self.entries.values()], dtype=np.int64)
        return self._distribution.probabilities(slots)

    def largest_priority(self) -> float:
        """The largest priority, 1 if there is none. O(n)."""
        return max((entry.priority for entry in self.entries.values()), default=1.0)

    def smallest_probability(self) -> float:
        """The probability of the least probable snapshot. At most O(n) plus sorting."""
        return self._distribution.smallest_probability()

    def check(self, priority: float) -> None:
        """Raises ValueError for a priority that the distribution cannot represent. O(1)."""
        self._distribution.check(priority)

    def insert(self, snapshot_id: int, priority: float, checksum: int) -> None:
        """Adds a snapshot; there must be a free slot. O(log n).

        Args:
          snapshot_id: The snapshot's id, larger than all so far.
          priority: Its priority, already checked.
          checksum: The checksum of its file.
        """
        slot = heapq.heappop(self._free_slots)
        self.entries[snapshot_id] = Entry(slot, priority, checksum)
        self._id_of_slot[slot] = snapshot_id
        self._distribution.set(slot, snapshot_id, priority)

    def reprioritize(self, snapshot_id: int, priority: float) -> bool:
        """Changes the priority of a snapshot, if it is still there. O(log n).

        Args:
          snapshot_id: The snapshot's id.
          priority: Its new priority, already checked.

        Returns:
          Whether the snapshot is there.
        """
        entry = self.entries.get(snapshot_id)
        if entry is None:
            return False
        entry.priority = priority
        self._distribution.set(entry.slot, snapshot_id, priority)
        return True

    def remove(self, snapshot_id: int) -> None:
        """Removes a snapshot; it must be there. O(log n)."""
        slot = self.entries.pop(snapshot_id).slot
        self._id_of_slot[slot] = -1
        self._distribution.remove(slot)
        heapq.heappush(self._free_slots, slot)

    def draw(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Finds the snapshots at points of the cumulative distribution; not in an empty index.

        Args:
          points: float64 [k] in [0, 1).

        Returns:
          The snapshots' ids, int64 [k], and their probabilities, float64 [k].
        """
        slots = self._distribution.draw(points)
        return self._id_of_slot[slots], self._distribution.probabilities(slots)
