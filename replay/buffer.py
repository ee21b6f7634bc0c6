"""Snapshots drawn by priority: adding, sampling, updating, dropping."""

from __future__ import annotations

import operator
import os
import warnings
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replay.files.structure import Structure
from replay.files.unreadable import DamagedFileError
from replay.priority_index import PriorityIndex
from replay.sampling import Sample, annealed, importance_weights, stratified_points
from replay.settings import Priority, checked_settings
from replay.stores.directory_store import DirectoryStore
from replay.stores.memory_store import MemoryStore

_Buffer = TypeVar("_Buffer", bound="Buffer")


class Buffer:
    """Snapshots in memory or in a directory, and what is done with them while the process runs.

    `PrioritizedReplay` adds what outlives the process.
    """

    def __init__(
        self,
        capacity: int,
        directory: str | os.PathLike[str] | None = None,
        priority: Priority = "rank",
        *,
        alpha: float = 0.7,
        beta: float = 0.5,
        beta_steps: int | None = None,
        eps: float = 1e-6,
        seed: int | None = None,
    ) -> None:
        """Opens a replay.

        Args:
          capacity: The number of snapshots after which a new one overwrites the oldest; at least 1.
          directory: The folder for the snapshots; it is made if need be. None keeps copies in
            memory, which end with the process.
          priority: "rank" or "proportional".
          alpha: The exponent α ≥ 0, how much the priorities count; 0 is uniform.
          beta: The exponent β at step 0, from 0 (no correction) to 1 (full correction).
          beta_steps: The number of steps over which β rises linearly to 1; None keeps it at
            `beta`. Every `sample` is one step, unless it is given another.
          eps: The constant ε > 0 added to every priority; only for "proportional".
          seed: The seed of the random generator, PCG64; None takes fresh entropy.

        Raises:
          ValueError: If an argument is out of its range.
          RuntimeError: If another replay uses the directory.
          OSError: If the directory cannot be made or is not writable.
        """
        self._settings = checked_settings(capacity, priority, alpha, beta, beta_steps, eps)
        self._index = PriorityIndex(self._settings)
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._next_id = 0
        self._step = 0
        self._serial = 0
        self._warned = False
        # Last, because it takes the directory's lock.
        self._store: MemoryStore | DirectoryStore = (
            MemoryStore() if directory is None else DirectoryStore(directory)
        )

    @property
    def capacity(self) -> int:
        """The largest number of snapshots that the replay holds."""
        capacity: int = self._settings["capacity"]
        return capacity

    @property
    def directory(self) -> Path | None:
        """The folder of the snapshots; None if they are in memory."""
        return self._store.directory if isinstance(self._store, DirectoryStore) else None

    @property
    def beta(self) -> float:
        """β of the next sample."""
        return annealed(self._settings["beta"], self._settings["beta_steps"], self._step)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids of the snapshots, oldest first, int64 [len(self)]; a copy."""
        return self._index.ids

    @property
    def priorities(self) -> NDArray[np.float64]:
        """The priorities, in the order of `ids`, float64 [len(self)]; a copy."""
        return self._index.priorities

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """P(i) in the order of `ids`, float64 [len(self)]; they sum to 1."""
        return self._index.probabilities

    def __len__(self) -> int:
        """The number of snapshots."""
        return len(self._index.entries)

    def __contains__(self, snapshot_id: object) -> bool:
        """Whether there is a snapshot with this id, neither overwritten nor dropped."""
        return snapshot_id in self._index.entries

    def __repr__(self) -> str:
        """One line for people."""
        settings = ", ".join(f"{key}={value!r}" for key, value in self._settings.items())
        where = f", directory={str(self.directory)!r}" if self.directory else ""
        return f"<PrioritizedReplay of {len(self)} snapshots: {settings}{where}>"

    def add(self, snapshot: Structure, priority: float | None = None) -> int:
        """Stores a snapshot; at capacity the oldest is evicted.

        Args:
          snapshot: A structure of arrays.
          priority: A finite number that is not negative. None gives the snapshot the largest
            priority present, including that of the snapshot about to be evicted, and 1 in an
            empty replay.

        Returns:
          The id of the snapshot.

        Raises:
          TypeError: If the snapshot holds something that is neither array nor plain value.
          ValueError: If the priority is negative, infinite or NaN; or if the directory holds
            snapshots of an earlier replay that was neither restored nor cleared.
          OSError: If the disk is full or fails. Then nothing has changed and nothing was evicted.
        """
        self._store.require_claimed()
        if priority is None:
            priority = self._index.largest_priority()
        priority = float(priority)
        self._index.check(priority)
        # The file first: whatever stops it, the replay goes on as if `add` had not been called.
        snapshot_id = self._next_id
        checksum = self._store.write(snapshot_id, snapshot)
        if len(self) == self.capacity:
            self.drop(next(iter(self._index.entries)))
        self._index.insert(snapshot_id, priority, checksum)
        self._next_id += 1
        self._warn_of_growth()
        return snapshot_id

    def sample(self, batch_size: int = 1, *, step: int | None = None) -> Sample:
        """Draws snapshots, with replacement, one from each of `batch_size` equal strata.

        Args:
          batch_size: The number k of draws, at least 1; it may exceed the number of snapshots.
          step: The step that β is annealed by; None counts the calls. The count goes on from it.

        Returns:
          A `Sample` of k ids, snapshots, importance weights and probabilities.

        Raises:
          ValueError: If the replay is empty, or an argument is out of its range.
          DamagedSnapshotError: If the file of a drawn snapshot is damaged; the error names the
            file and the id. The draw is undone: the replay is as it was before. To go on without
            that snapshot, call `drop(error.id)`.
        """
        if operator.index(batch_size) < 1:
            raise ValueError(f"expected a batch_size of at least 1, got {batch_size}")
        step = self._step if step is None else operator.index(step)
        if step < 0:
            raise ValueError(f"expected a step that is not negative, got {step}")
        if not len(self):
            self._store.require_claimed()
            raise ValueError("the replay is empty: add() a snapshot before the first sample()")
        before = self._generator.bit_generator.state
        try:
            points = stratified_points(self._generator, batch_size)
            ids, probabilities = self._index.draw(points)
            snapshots = [self.snapshot(number) for number in ids.tolist()]
        except BaseException:
            self._generator.bit_generator.state = before
            raise
        self._step = step
        beta = self.beta
        self._step += 1
        weights = importance_weights(probabilities, self._index.smallest_probability(), beta)
        return Sample(ids, snapshots, weights, probabilities, beta)

    def update(self, ids: ArrayLike, priorities: ArrayLike) -> NDArray[np.bool_]:
        """Gives snapshots new priorities, and skips those that have been overwritten meanwhile.

        Args:
          ids: Integers [k], or a single integer.
          priorities: Finite numbers that are not negative, [k], or a single number. If an id
            occurs twice, its last priority counts.

        Returns:
          bool [k], True for each id that was still there.

        Raises:
          TypeError: If the ids are not integers.
          ValueError: If the lengths differ, a priority is negative, infinite or NaN, or an id was
            never assigned. Then nothing has changed.
        """
        numbers = np.atleast_1d(np.asarray(ids))
        values = np.atleast_1d(np.asarray(priorities, dtype=np.float64))
        if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
            raise TypeError(f"expected integer ids, got dtype {numbers.dtype}")
        if numbers.ndim != 1 or numbers.shape != values.shape:
            raise ValueError(
                f"expected as many ids as priorities, both [k], got the shapes {numbers.shape} "
                f"and {values.shape}"
            )
        pairs = list(zip(numbers.tolist(), values.tolist(), strict=True))
        for number, value in pairs:
            self._index.check(value)
            if not 0 <= number < self._next_id:
                raise ValueError(
                    f"no snapshot ever had the id {number}: the next new one gets {self._next_id}"
                )
        present = [self._index.reprioritize(number, value) for number, value in pairs]
        return np.array(present, dtype=np.bool_)

    def snapshot(self, snapshot_id: int) -> Structure:
        """Reads one snapshot.

        Args:
          snapshot_id: The id of the snapshot.

        Returns:
          The structure of arrays; it belongs to the caller.

        Raises:
          KeyError: If the snapshot was overwritten or dropped, or never existed.
          DamagedSnapshotError: If its file is missing or damaged.
        """
        entry = self._index.entries.get(snapshot_id)
        if entry is None:
            raise KeyError(f"there is no snapshot {snapshot_id}; `ids` lists those that there are")
        return self._store.read(snapshot_id, entry.checksum)

    def drop(self, snapshot_id: int) -> bool:
        """Removes a snapshot, for example one whose file is damaged.

        Args:
          snapshot_id: The id of the snapshot.

        Returns:
          Whether the snapshot was there.
        """
        if snapshot_id not in self:
            return False
        self._store.discard(snapshot_id)
        self._index.remove(snapshot_id)
        return True

    def verify(self) -> list[int]:
        """Reads every snapshot once.

        Returns:
          The ids of the snapshots whose files are missing or damaged; `drop` removes them.
        """
        damaged = []
        for snapshot_id in self._index.entries:
            try:
                self.snapshot(snapshot_id)
            except DamagedFileError:
                damaged.append(snapshot_id)
        return damaged

    def clear(self) -> None:
        """Starts over: removes all snapshots and deletes their files.

        This deletes also the files that an earlier state names, those that were found in the
        directory when it was opened, and `index.json`. The random generator, the step and the ids
        go on.
        """
        self._store.clear()
        self._index = PriorityIndex(self._settings)

    def close(self) -> None:
        """Releases the directory. Snapshots can still be read but not added."""
        self._store.close()

    def __enter__(self: _Buffer) -> _Buffer:
        """Returns the replay."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the replay, without saving it."""
        self.close()

    def _warn_of_growth(self) -> None:
        waiting = len(self._store) - len(self)
        if waiting > max(100, 2 * self.capacity) and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.directory} holds {waiting} files of snapshots that were evicted and that "
                "states handed out by state() still name: call commit(state) each time that a "
                "checkpoint with that state is safely on the disk",
                stacklevel=3,
            )
