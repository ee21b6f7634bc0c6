"""Snapshots kept in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.files.structure import Structure, flatten, unflatten


class MemoryStore:
    """Keeps copies of the arrays, and returns copies of the copies.

    So nothing that a caller does to an array later changes the store. It has the methods of
    `DirectoryStore` that `PrioritizedReplay` uses for both.
    """

    def __init__(self) -> None:
        """Makes an empty store."""
        self._snapshots: dict[int, tuple[Any, list[NDArray[Any]]]] = {}

    def write(self, snapshot_id: int, snapshot: Structure) -> int:
        """Stores a copy of a snapshot.

        Args:
          snapshot_id: Its id.
          snapshot: A structure of arrays.

        Returns:
          0 instead of a checksum: memory is trusted.

        Raises:
          TypeError: For structures that `flatten` refuses.
        """
        description, arrays = flatten(snapshot, "snapshot")
        self._snapshots[snapshot_id] = (description, [np.array(array) for array in arrays])
        return 0

    def read(self, snapshot_id: int, checksum: int) -> Structure:
        """Returns a copy of a snapshot; `checksum` is not used."""
        description, arrays = self._snapshots[snapshot_id]
        return unflatten(description, [array.copy("K") for array in arrays])

    def discard(self, snapshot_id: int) -> None:
        """Forgets a snapshot."""
        del self._snapshots[snapshot_id]

    def require_claimed(self) -> None:
        """Does nothing: memory holds nothing of earlier runs."""

    def clear(self) -> None:
        """Forgets all snapshots."""
        self._snapshots.clear()

    def __len__(self) -> int:
        """The number of snapshots."""
        return len(self._snapshots)

    def close(self) -> None:
        """Does nothing: memory needs no lock."""
