"""Prioritized experience replay."""

from __future__ import annotations

import math
import operator
import os
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replay.files.structure import Structure
from replay.files.unreadable import DamagedFileError
from replay.priority_index import PriorityIndex
from replay.sampling import Sample, annealed, importance_weights, stratified_points
from replay.state import ReplayState
from replay.stores.directory_store import INDEX_NAME, DirectoryStore, read_index
from replay.stores.memory_store import MemoryStore

Priority: TypeAlias = Literal["rank", "proportional"]
_SETTINGS = {"capacity", "priority", "alpha", "beta", "beta_steps", "eps"}


class PrioritizedReplay:
    """Snapshots, drawn more often the larger their priority is.

    Schaul et al. 2016, "Prioritized Experience Replay", arXiv 1511.05952. Snapshot i is drawn with

        P(i) = rank(i)^-α / Σ_j rank(j)^-α    priority="rank", rank 1 has the largest priority
        P(i) = (p_i + ε)^α / Σ_j (p_j + ε)^α  priority="proportional"

    and comes with the importance weight w_i = (N · P(i))^-β / max_j w_j, where β is annealed to 1.

    A snapshot is a structure of arrays: dicts, lists and tuples, nested, of NumPy arrays (and of
    None, bool, int, float and str). Its id counts up from 0, so ids are in order of age.

    With a directory, every snapshot is one file that is written once and read when it is drawn.
    Everything else is in `state()`, a small JSON-able dict that belongs into the trainer's own
    checkpoint, so that both are restored as one cut:

        state = replay.state()
        write_structure(checkpoint, {"weights": ..., "replay": state})  # or any other format
        replay.commit(state)               # only when the checkpoint is safely on the disk

        replay = PrioritizedReplay(200, directory=directory, ...)       # after a restart
        replay.restore(read_structure(checkpoint)["replay"])            # with a checkpoint, or
        replay.clear()                                                  # without one

    Snapshots that were stored after that state are ignored and overwritten. Those that it names
    stay readable although they may have been evicted since: the file of an evicted snapshot is
    deleted at once only if no state that `state()` handed out names it, otherwise by the next
    `commit`. So the directory holds at most the capacity and the snapshots of the states since the
    last commit. Without a trainer, `save()` and `load()` do all this with an `index.json` in the
    directory. A kill at any moment damages nothing.

    A replay belongs to one process and one thread; a second replay on the same directory is
    refused until the first is closed, collected, or its process ends.
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
          capacity: how many snapshots it holds before a new one overwrites the oldest; at least 1.
          directory: where the snapshots are stored; it is made if need be. None keeps copies in
            memory, which end with the process.
          priority: "rank" or "proportional".
          alpha: α ≥ 0, how much the priorities count; 0 is uniform.
          beta: β at step 0, from 0 (no correction) to 1 (full correction).
          beta_steps: the number of steps over which β rises to 1, linearly; None keeps it at
            `beta`. Every `sample` is a step, unless it is told another one.
          eps: ε > 0, added to every priority; only for "proportional".
          seed: of the random generator, PCG64; None takes fresh entropy.

        Raises:
          ValueError: If an argument is out of its range.
          RuntimeError: If another replay uses the directory.
          OSError: If the directory cannot be made or is not writable.
        """
        _check_settings(capacity, priority, alpha, beta, beta_steps)
        self._settings: dict[str, Any] = {
            "capacity": operator.index(capacity),
            "priority": priority,
            "alpha": float(alpha),
            "beta": float(beta),
            "beta_steps": None if beta_steps is None else operator.index(beta_steps),
            "eps": float(eps),
        }
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
        """How many snapshots the replay holds at most."""
        capacity: int = self._settings["capacity"]
        return capacity

    @property
    def directory(self) -> Path | None:
        """Where the snapshots are stored, None in memory."""
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
        """How many snapshots there are."""
        return len(self._index.entries)

    def __contains__(self, snapshot_id: object) -> bool:
        """Whether a snapshot with this id is there, that is, was not overwritten or dropped."""
        return snapshot_id in self._index.entries

    def __repr__(self) -> str:
        """One line for people."""
        settings = ", ".join(f"{key}={value!r}" for key, value in self._settings.items())
        where = f", directory={str(self.directory)!r}" if self.directory else ""
        return f"<PrioritizedReplay of {len(self)} snapshots: {settings}{where}>"

    def add(self, snapshot: Structure, priority: float | None = None) -> int:
        """Stores a snapshot; at capacity the oldest is evicted.

        Args:
          snapshot: a structure of arrays.
          priority: finite and not negative. None gives it the largest priority present, the one
            that is about to be evicted included, and 1 in an empty replay.

        Returns:
          Its id.

        Raises:
          TypeError: If the snapshot holds something that is neither array nor plain value.
          ValueError: If the priority is negative, infinite or NaN; or if the directory holds
            snapshots of an earlier replay that was neither restored nor cleared.
          OSError: If the disk is full or fails. Nothing has changed then, nothing was evicted.
        """
        self._store.require_claimed()
        if priority is None:
            priority = self._index.largest_priority()
        priority = float(priority)
        self._index.check(priority)
        # The file first: whatever stops it, the replay goes on as if nothing had been asked.
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
          batch_size: k, at least 1; it may exceed the number of snapshots.
          step: the step that β is annealed by; None counts the samples. The count goes on from it.

        Returns:
          A `Sample` of k ids, snapshots, importance weights and probabilities.

        Raises:
          ValueError: If the replay is empty, or an argument is out of its range.
          DamagedSnapshotError: If the file of a drawn snapshot is damaged; it names the file and
            has the id. The draw is undone: the replay is as it was before. `drop(error.id)` goes
            on without that snapshot.
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
        """Gives snapshots new priorities; those that were overwritten meanwhile are passed over.

        Args:
          ids: integers [k], or one.
          priorities: finite and not negative, [k], or one. Where an id occurs twice, the last
            counts.

        Returns:
          bool [k], which of the ids were still there.

        Raises:
          TypeError: If the ids are not integers.
          ValueError: If the lengths differ, a priority is negative, infinite or NaN, or an id was
            never given out. Nothing has changed then.
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
          snapshot_id: its id.

        Returns:
          The structure of arrays; it belongs to the caller.

        Raises:
          KeyError: If it was overwritten or dropped, or never was.
          DamagedSnapshotError: If its file is missing or damaged.
        """
        entry = self._index.entries.get(snapshot_id)
        if entry is None:
            raise KeyError(f"there is no snapshot {snapshot_id}; `ids` lists those that there are")
        return self._store.read(snapshot_id, entry.checksum)

    def drop(self, snapshot_id: int) -> bool:
        """Takes a snapshot out, for example one whose file is damaged.

        Args:
          snapshot_id: its id.

        Returns:
          Whether it was there.
        """
        if snapshot_id not in self:
            return False
        self._store.discard(snapshot_id)
        self._index.remove(snapshot_id)
        return True

    def verify(self) -> list[int]:
        """Reads every snapshot once.

        Returns:
          The ids of those whose files are missing or damaged, which `drop` takes out.
        """
        damaged = []
        for snapshot_id in self._index.entries:
            try:
                self.snapshot(snapshot_id)
            except DamagedFileError:
                damaged.append(snapshot_id)
        return damaged

    def clear(self) -> None:
        """Starts over: takes out all snapshots and deletes their files.

        Files are deleted that an earlier state names, or that were found in the directory when it
        was opened; the `index.json` too. The random generator and the step go on, and so do the
        ids.
        """
        self._store.clear()
        self._index = PriorityIndex(self._settings)

    def state(self) -> dict[str, Any]:
        """Everything that decides what the replay does next, but for the snapshots themselves.

        The files of the snapshots that it names are kept, evicted or not, until `commit` is called
        with it or a later one.

        Returns:
          A small JSON-able dict: ids, priorities, slots and checksums of the snapshots, the next
          id, the step, the random generator's state and the constructor's arguments. Floats keep
          every bit. `write_structure` stores it too.

        Raises:
          ValueError: If the replay has no directory.
        """
        store = self._require_directory()
        self._serial += 1
        store.pin(self._index.entries, self._serial)
        return ReplayState(
            serial=self._serial,
            settings=self._settings,
            next_id=self._next_id,
            step=self._step,
            generator=dict(self._generator.bit_generator.state),
            entries=self._index.entries,
        ).to_json()

    def restore(
        self, state: dict[str, Any], *, missing: Literal["raise", "drop"] = "raise"
    ) -> None:
        """Goes back to a state: the same snapshots, priorities and draws follow as did then.

        Snapshots that were stored after the state are ignored; their files are overwritten by new
        ones with the same ids, or deleted by the next `commit`. The settings (α, β, ...) are those
        that this replay was constructed with, which need not be the state's.

        Args:
          state: what `state` returned.
          missing: what to do with snapshots whose files are gone: "raise", or "drop" to go on
            without them, with a warning. Damaged files are found when they are drawn, or by
            `verify`.

        Raises:
          ValueError: If it is no intact state, if the capacity is too small for it, or if files of
            its snapshots are missing. Nothing has changed then.
        """
        store = self._require_directory()
        restored = ReplayState.from_json(state)
        entries = restored.entries
        if any(not 0 <= entry.slot < self.capacity for entry in entries.values()):
            raise ValueError(
                f"the state needs a capacity of {restored.settings['capacity']}, this replay has "
                f"{self.capacity}. Construct it with that capacity or a larger one."
            )
        gone = store.missing(entries)
        absent = set(gone)
        if gone:
            report = (
                f"{len(gone)} of the {len(entries)} snapshots of the state are not in "
                f"{self.directory} (the first has the id {gone[0]})"
            )
            if missing == "raise":
                raise ValueError(
                    f"{report}. Either it is not the state's directory, or a later state was "
                    "committed and they were deleted. Restore that later state, or go on without "
                    'them: restore(state, missing="drop").'
                )
            warnings.warn(f"{report}; going on without them", stacklevel=2)
        kept = {number: entry for number, entry in entries.items() if number not in absent}
        self._index = PriorityIndex(self._settings, kept)
        self._generator.bit_generator.state = restored.generator
        self._next_id = restored.next_id
        self._step = restored.step
        self._serial = max(self._serial, restored.serial)
        store.pin(kept, self._serial)
        store.claim()

    def commit(self, state: dict[str, Any], *others: dict[str, Any]) -> None:
        """Says that a state is safely on the disk, so that what only earlier ones need can go.

        Deletes the files of all snapshots that are neither in the replay now, nor in one of the
        given states, nor in a state that was handed out after the latest of them.

        Args:
          state: a state whose checkpoint can be read after a crash.
          *others: further states that must stay restorable, if several checkpoints are kept.

        Raises:
          ValueError: If one is no intact state, or the directory holds snapshots of an earlier
            replay that was neither restored nor cleared.
          OSError: If a file cannot be deleted.
        """
        store = self._require_directory()
        store.require_claimed()
        states = [ReplayState.from_json(each) for each in (state, *others)]
        wanted = set(self._index.entries).union(*(each.entries for each in states))
        store.release(wanted, max(each.serial for each in states))

    def save(self) -> None:
        """Writes the state to `index.json` in the directory and commits it.

        For replays that are not part of a trainer's checkpoint; `load` reads it. The index is
        replaced as a whole or not at all.

        Raises:
          ValueError: If the replay has no directory, or it holds snapshots of an earlier replay
            that was neither restored nor cleared.
          OSError: If the disk is full or fails; the former index still counts.
        """
        store = self._require_directory()
        store.require_claimed()
        state = self.state()
        store.write_index(state)
        self.commit(state)

    @classmethod
    def load(cls, directory: str | os.PathLike[str], **settings: Any) -> PrioritizedReplay:
        """Opens a directory as the last `save` left it.

        Args:
          directory: the directory.
          **settings: arguments of the constructor that shall differ from the saved ones.

        Returns:
          The replay: same snapshots, priorities, and draws to come.

        Raises:
          FileNotFoundError: If nothing was saved there.
          DamagedFileError: If the index is damaged, or holds what this version does not know.
          ValueError: If snapshots are missing, or a setting is out of its range.
          RuntimeError: If another replay uses the directory.
        """
        saved = _saved_settings(directory)
        replay = cls(directory=directory, **{**saved, **settings})
        try:
            # Read again, now that nobody else can write.
            replay.restore(read_index(directory))
        except BaseException:
            replay.close()
            raise
        return replay

    def close(self) -> None:
        """Gives the directory free. Snapshots can still be read, but nothing be added."""
        self._store.close()

    def __enter__(self) -> PrioritizedReplay:
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

    def _require_directory(self) -> DirectoryStore:
        if isinstance(self._store, MemoryStore):
            raise ValueError(
                "this replay keeps its snapshots in memory, so its state cannot outlive it: "
                "construct it with directory=... to save and restore it"
            )
        return self._store

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


def _saved_settings(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The constructor's arguments that an index names."""
    try:
        saved = ReplayState.from_json(read_index(directory)).settings
        if set(saved) != _SETTINGS:
            raise ValueError(f"expected the settings {sorted(_SETTINGS)}, found {sorted(saved)}")
        _check_settings(**{name: value for name, value in saved.items() if name != "eps"})
        PriorityIndex(saved)
    except DamagedFileError:
        raise
    except (ValueError, TypeError) as error:
        path = os.path.join(os.fspath(directory), INDEX_NAME)
        raise DamagedFileError(
            f"{path} can't be used ({error}). Open the directory with the version of the package "
            "that wrote it, or put an intact copy in its place.",
            path,
        ) from error
    return saved


def _check_settings(
    capacity: int, priority: str, alpha: float, beta: float, beta_steps: int | None
) -> None:
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
