"""Snapshots kept in a directory, one file each, and the index of a replay beside them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from replay.files.atomic import remove_temporary_files, replace_file
from replay.files.directory_lock import DirectoryLock
from replay.files.json_files import read_json
from replay.files.storage import read_structure, write_structure
from replay.files.structure import Structure
from replay.files.unreadable import DamagedFileError, UnreadableFileError

INDEX_NAME = "index.json"
_SNAPSHOT_NAME = re.compile(r"snapshot-(\d{8,})\.npz")


class DamagedSnapshotError(DamagedFileError):
    """A snapshot's file is missing, damaged, or not the one that was stored under that id.

    The rest of the replay stays usable; `replay.drop(error.id)` goes on without this snapshot.

    Attributes:
      id: The snapshot's id.
      path: The file.
    """

    def __init__(self, message: str, path: str | None = None, id: int = -1) -> None:
        """Says what is wrong with which snapshot.

        Args:
          message: The sentence that the user reads.
          path: The file.
          id: The snapshot's id.
        """
        super().__init__(message, path)
        self.id = id


class DirectoryStore:
    """The files of a replay.

    A file is deleted when nothing can need it any more. An earlier checkpoint may name snapshots
    that have been evicted since, so the ids of every state that was returned are *pinned*:
    `discard` leaves a pinned file in place until `release` says that a later state is safe. A file
    that no state names is deleted at once.

    A directory in which snapshots of an earlier replay are found is *unclaimed* until the caller
    says what to do with them, by `claim` (a state was restored) or `clear` (start over): new
    snapshots would otherwise overwrite them.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Opens a directory, making it if need be, and takes its lock.

        Args:
          directory: The directory.

        Raises:
          RuntimeError: If another replay uses it.
          OSError: If it cannot be made or is not writable.
        """
        self.directory = Path(directory).absolute()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(self.directory)
        except OSError as error:
            raise OSError(
                error.errno,
                f"a replay needs a directory it can write to ({error.strerror}). Check the path "
                "and its permissions, or leave `directory` out to keep the snapshots in memory",
                str(self.directory),
            ) from error
        remove_temporary_files(self.directory)
        names = (_SNAPSHOT_NAME.fullmatch(name) for name in os.listdir(self.directory))
        self._stored = {int(name[1]) for name in names if name}
        self._pinned: dict[int, int] = {}  # by id: the number of the last state with it
        self._claimed = not self._stored

    def path(self, snapshot_id: int) -> Path:
        """Returns the path of a snapshot's file, whether the file exists or not."""
        return self.directory / f"snapshot-{snapshot_id:08d}.npz"

    def write(self, snapshot_id: int, snapshot: Structure) -> int:
        """Stores a snapshot in its own file, as a whole or not at all.

        Args:
          snapshot_id: Its id.
          snapshot: A structure of arrays.

        Returns:
          The checksum, for `read`.

        Raises:
          TypeError: For a structure that cannot be stored.
          OSError: If the disk is full or fails; nothing has changed.
          RuntimeError: If the store was closed.
        """
        self._lock.check()
        checksum = write_structure(self.path(snapshot_id), snapshot)
        self._stored.add(snapshot_id)
        return checksum

    def read(self, snapshot_id: int, checksum: int) -> Structure:
        """Reads a snapshot.

        Args:
          snapshot_id: Its id.
          checksum: The checksum that `write` returned.

        Returns:
          The structure.

        Raises:
          DamagedSnapshotError: If the file is missing, damaged, of a later version, or has another
            checksum.
        """
        path = self.path(snapshot_id)
        try:
            return read_structure(path, checksum)
        except (FileNotFoundError, UnreadableFileError) as error:
            missing = isinstance(error, FileNotFoundError)
            problem = f"{path} is missing." if missing else str(error)
            raise DamagedSnapshotError(
                f"{problem} To go on without this snapshot, call replay.drop({snapshot_id}).",
                str(path),
                snapshot_id,
            ) from error

    def discard(self, snapshot_id: int) -> None:
        """Deletes a snapshot's file, unless a state that was returned names it."""
        self._lock.check()
        if snapshot_id not in self._pinned:
            # A file that cannot be deleted is no reason to fail: `release` will try again.
            with contextlib.suppress(OSError):
                self._delete(snapshot_id)

    def pin(self, snapshot_ids: Iterable[int], serial: int) -> None:
        """Keeps the files of these snapshots until a later state is safe.

        Args:
          snapshot_ids: The ids that a state names.
          serial: The number of that state; later states have larger numbers.
        """
        self._pinned.update(dict.fromkeys(snapshot_ids, serial))

    def release(self, wanted: Iterable[int], serial: int) -> None:
        """Deletes all snapshots' files except those wanted and those that a later state names.

        Args:
          wanted: The ids to keep.
          serial: The number of the first state whose pins remain.

        Raises:
          OSError: If a file cannot be deleted.
          RuntimeError: If the store was closed.
        """
        self._lock.check()
        self._pinned = {number: last for number, last in self._pinned.items() if last >= serial}
        for snapshot_id in self._stored - self._pinned.keys() - set(wanted):
            self._delete(snapshot_id)

    def missing(self, snapshot_ids: Iterable[int]) -> list[int]:
        """Returns the ids without a file."""
        return [number for number in snapshot_ids if not self.path(number).exists()]

    def __len__(self) -> int:
        """The number of files, including those of evicted snapshots."""
        return len(self._stored)

    def claim(self) -> None:
        """Declares that the files in the directory belong to this replay."""
        self._claimed = True

    def require_claimed(self) -> None:
        """Refuses to go on in a directory with an earlier replay's snapshots.

        Raises:
          ValueError: If the directory is unclaimed.
        """
        if not self._claimed:
            raise ValueError(
                f"{self.directory} holds {len(self._stored)} snapshots of an earlier replay. Call "
                "restore(state) with the state from your checkpoint or use "
                "PrioritizedReplay.load(directory) to go on with them, call clear() to delete "
                "them, or choose another directory."
            )

    def clear(self) -> None:
        """Deletes the index and all snapshots, pinned ones too."""
        self._lock.check()
        # The index first: if a kill comes in between, it must not name snapshots that are gone.
        (self.directory / INDEX_NAME).unlink(missing_ok=True)
        self._pinned.clear()
        for snapshot_id in list(self._stored):
            self._delete(snapshot_id)
        self._claimed = True

    def write_index(self, state: dict[str, Any]) -> None:
        """Writes a replay's state to the directory's index, as a whole or not at all.

        Args:
          state: A JSON-able state.

        Raises:
          OSError: If the disk is full or fails; the former index is unchanged.
          RuntimeError: If the store was closed.
        """
        self._lock.check()
        text = json.dumps(state, sort_keys=True)
        with replace_file(self.directory / INDEX_NAME) as file:
            file.write(f'{{"crc32": {zlib.crc32(text.encode())}, "state": {text}}}\n'.encode())

    def close(self) -> None:
        """Releases the directory for other processes."""
        self._lock.release()

    def _delete(self, snapshot_id: int) -> None:
        self.path(snapshot_id).unlink(missing_ok=True)
        self._stored.discard(snapshot_id)


def read_index(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the state that `DirectoryStore.write_index` wrote.

    Args:
      directory: The directory.

    Returns:
      The state.

    Raises:
      FileNotFoundError: If the directory has no index.
      DamagedFileError: If the index was changed after it was written.
    """
    path = Path(directory) / INDEX_NAME
    try:
        index = read_json(path, "the state of a replay")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} does not exist: no replay was saved in this directory with save(). A replay "
            "whose state is in a checkpoint is opened with PrioritizedReplay(..., directory=...) "
            "and restore(state)."
        ) from None
    if set(index) != {"crc32", "state"}:
        raise DamagedFileError(
            f"{path} is damaged or something else wrote it: expected the state of a replay with "
            f"its crc32, found the keys {str(sorted(index))[:80]}. Put an intact copy in its "
            "place, or choose another directory.",
            str(path),
        )
    state = index["state"]
    text = json.dumps(state, sort_keys=True)
    if not isinstance(state, dict) or index.get("crc32") != zlib.crc32(text.encode()):
        raise DamagedFileError(
            f"{path} is damaged (its CRC-32 does not match its state). Put an intact copy in its "
            "place, or open the directory with PrioritizedReplay(..., directory=...) and start "
            "over with clear().",
            str(path),
        )
    return state
