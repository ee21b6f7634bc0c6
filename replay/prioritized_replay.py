"""Prioritized experience replay that survives a kill at any moment."""

from __future__ import annotations

import os
import warnings
from typing import Any, Literal

from replay.buffer import Buffer
from replay.files.unreadable import DamagedFileError
from replay.priority_index import PriorityIndex
from replay.settings import SETTINGS, checked_settings
from replay.state import ReplayState
from replay.stores.directory_store import INDEX_NAME, DirectoryStore, read_index
from replay.stores.memory_store import MemoryStore


class PrioritizedReplay(Buffer):
    """A store of snapshots in which those with larger priorities are drawn more often.

    Schaul et al. 2016, "Prioritized Experience Replay", arXiv 1511.05952. Snapshot i is drawn with

        P(i) = rank(i)^-α / Σ_j rank(j)^-α    priority="rank", rank 1 has the largest priority
        P(i) = (p_i + ε)^α / Σ_j (p_j + ε)^α  priority="proportional"

    and comes with the importance weight w_i = (N · P(i))^-β / max_j w_j, where β is annealed to 1.

    A snapshot is a structure of arrays: dicts, lists and tuples, nested, of NumPy arrays (and of
    None, bool, int, float and str). Its id counts up from 0, so ids are in order of age.

    With a directory, every snapshot is one file that is written once and read when it is drawn.
    Everything else is in `state()`, a small JSON-able dict that belongs in the trainer's own
    checkpoint, so that both are restored as one cut:

        state = replay.state()
        write_structure(checkpoint, {"weights": ..., "replay": state})  # or any other format
        replay.commit(state)               # only when the checkpoint is safely on disk

        replay = PrioritizedReplay(200, directory=directory, ...)       # after a restart
        replay.restore(read_structure(checkpoint)["replay"])            # with a checkpoint, or
        replay.clear()                                                  # without one

    Snapshots that were stored after that state are ignored and overwritten. Snapshots that the
    state names stay readable even if they have been evicted since: the file of an evicted snapshot
    is deleted at once only if no state that `state()` returned names it, otherwise by the next
    `commit`. So the directory holds at most `capacity` snapshots and those of the states since the
    last commit. Without a trainer, `save()` and `load()` do all this with an `index.json` in the
    directory. A kill at any moment damages nothing.

    A replay belongs to one process and one thread; a second replay on the same directory is
    refused until the first is closed, collected, or its process ends.
    """

    def state(self) -> dict[str, Any]:
        """Returns everything that decides what the replay does next, except the snapshots.

        The files of the snapshots that the state names are kept, evicted or not, until `commit` is
        called with this state or a later one.

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
        """Goes back to a state: the snapshots, priorities and next draws are as they were then.

        Snapshots that were stored after the state are ignored; their files are overwritten by new
        ones with the same ids, or deleted by the next `commit`. The settings (α, β, ...) stay
        those that this replay was constructed with, which may differ from the state's.

        Args:
          state: The return value of `state`.
          missing: The reaction to snapshots whose files are gone: "raise", or "drop" to go on
            without them, with a warning. Damaged files are found when they are drawn, or by
            `verify`.

        Raises:
          ValueError: If the state is not intact, if the capacity is too small for it, or if files
            of its snapshots are missing. Then nothing has changed.
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
            entries = {number: entries[number] for number in sorted(entries.keys() - set(gone))}
        self._index = PriorityIndex(self._settings, entries)
        self._generator.bit_generator.state = restored.generator
        self._next_id = restored.next_id
        self._step = restored.step
        self._serial = max(self._serial, restored.serial)
        store.pin(entries, self._serial)
        store.claim()

    def commit(self, state: dict[str, Any], *others: dict[str, Any]) -> None:
        """Declares that a state is safely on disk, so that files only earlier states need can go.

        Deletes the files of all snapshots that are neither in the replay now, nor in one of the
        given states, nor in a state that was returned after the latest of them.

        Args:
          state: A state whose checkpoint can be read after a crash.
          *others: Further states that must stay restorable, if several checkpoints are kept.

        Raises:
          ValueError: If one of the states is not intact, or the directory holds snapshots of an
            earlier replay that was neither restored nor cleared.
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
          directory: The directory.
          **settings: Arguments of the constructor that are to differ from the saved ones.

        Returns:
          The replay, with the same snapshots, priorities and next draws.

        Raises:
          FileNotFoundError: If nothing was saved there.
          DamagedFileError: If the index is damaged, or holds settings that this version does not
            know.
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

    def _require_directory(self) -> DirectoryStore:
        if isinstance(self._store, MemoryStore):
            raise ValueError(
                "this replay keeps its snapshots in memory, so its state cannot outlive it: "
                "construct it with directory=... to save and restore it"
            )
        return self._store


def _saved_settings(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the constructor's arguments that a directory's index names."""
    try:
        saved = ReplayState.from_json(read_index(directory)).settings
        if set(saved) != SETTINGS:
            raise ValueError(f"expected the settings {sorted(SETTINGS)}, found {sorted(saved)}")
        checked_settings(**saved)
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
