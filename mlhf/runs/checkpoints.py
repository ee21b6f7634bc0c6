"""Checkpoints of a run: one file each, written whole or not at all, the newest are kept."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from replay import (
    DamagedFileError,
    DirectoryLock,
    UnreadableFileError,
    read_structure,
    remove_temporary_files,
    write_structure,
)

# The number of checkpoints that a run keeps: the newest ones.
CHECKPOINTS_KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{9})\.npz$")


class CheckpointError(ValueError):
    """A checkpoint can't be used; the message says why and what to do."""


class DamagedCheckpointError(CheckpointError, UnreadableFileError):
    """A checkpoint's file is damaged, is something else, or is of a later version."""


class Checkpoints:
    """The checkpoints in a folder."""

    def __init__(self, folder: str | Path, alone: bool = False) -> None:
        """Opens a folder, and makes it if it does not exist.

        Args:
          folder: The folder in which the run keeps its files.
          alone: Whether the folder is locked until `close`, or until the process ends: two runs
            would replace each other's files. Files that a killed run left half-written are removed.

        Raises:
          CheckpointError: If another run has locked it.
          OSError: If it can't be made or written to; the message says what to do.
        """
        self._lock: DirectoryLock | None = None
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # A temporary name: no file that is there can be in the way.
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise OSError(
                f"Expected a folder to write to, got {self.folder} ({error.strerror}); choose "
                "another or change its permissions."
            ) from error
        if alone:
            try:
                self._lock = DirectoryLock(self.folder, "run")
            except RuntimeError as error:
                raise CheckpointError(str(error)[0].upper() + str(error)[1:]) from error
            remove_temporary_files(self.folder)

    def close(self) -> None:
        """Unlocks the folder."""
        if self._lock is not None:
            self._lock.release()

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, ascending."""
        matches = (_NAME.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match.group(1)) for match in matches if match)

    def write(self, step: int, content: Any) -> None:
        """Writes a checkpoint and then removes the oldest ones beyond `CHECKPOINTS_KEPT`.

        Args:
          step: The number of steps done.
          content: A structure of tensors, arrays and plain values.

        Raises:
          CheckpointError: If it contains numbers that are not finite; then nothing is written.
          OSError: If it can't be written.
        """
        content = tf.nest.map_structure(_to_array, content)
        for value in tf.nest.flatten(content):
            if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
                if not np.all(np.isfinite(value)):
                    raise CheckpointError(
                        f"The state at step {step} holds numbers that are not finite; it was not "
                        f"saved, and the checkpoints before it in {self.folder} are untouched."
                    )
        write_structure(self._path(step), content)
        for old in self.steps()[:-CHECKPOINTS_KEPT]:
            if self._path(old).is_file():
                self._path(old).unlink()

    def read(self, step: int | None = None) -> tuple[int, Any] | None:
        """Reads a checkpoint.

        Args:
          step: The steps done at the checkpoint; those of the newest by default.

        Returns:
          The step and the content, or None if there is no checkpoint.

        Raises:
          DamagedCheckpointError: If it is damaged, is something else, or is of a later version.
        """
        steps = self.steps()
        if not steps:
            return None
        step = steps[-1] if step is None else step
        path = self._path(step)
        try:
            content = read_structure(path)
        except DamagedFileError as error:
            # Only for this package's own files does the error say that they may be deleted.
            verb = "Remove" if "Delete" in str(error) else "Move"
            raise DamagedCheckpointError(
                f"{error} {verb} that file{'' if verb == 'Remove' else ' away'} to continue from "
                "the checkpoint before it, or choose another folder to begin again.",
                str(path),
            ) from error
        except UnreadableFileError as error:
            raise DamagedCheckpointError(str(error), str(path)) from error
        if not isinstance(content, dict):
            raise DamagedCheckpointError(
                f"Expected the state of a run in {path}, found a {type(content).__name__}: choose "
                "another folder.",
                str(path),
            )
        return step, content

    def _path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:09d}.npz"


def check_same_run(place: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Checks that a checkpoint has the settings of the run that is to continue it.

    Args:
      place: The checkpoint, as the beginning of a sentence.
      found: The settings of the checkpoint, by name.
      expected: The settings of this run.

    Raises:
      CheckpointError: If any differ or are on one side only; the message names them.
    """
    differing = [
        f"{name}: expected {expected.get(name)}, found {found.get(name)}"
        for name in sorted(set(found) | set(expected), key=str)
        if not _equal(found.get(name), expected.get(name))
    ]
    if differing:
        raise CheckpointError(
            f"{place} is of another run ({'; '.join(differing)}). Give the flags that it was made "
            "with, or another folder."
        )


def load_like(like: Any, saved: Any, name: str) -> Any:
    """Returns saved arrays as tensors, after checking that a run could have saved them.

    Args:
      like: A structure of tensors of the shapes and dtypes that are expected.
      saved: The structure that was read; a namedtuple may have become a tuple.
      name: The name of the structure in messages.

    Returns:
      The tensors in the structure of `like`.

    Raises:
      ValueError: If structure, shapes or dtypes differ, or a number is not finite.
    """
    try:
        tf.nest.assert_same_structure(like, saved, check_types=False)
    except (TypeError, ValueError) as error:
        counts = len(tf.nest.flatten(like)), len(tf.nest.flatten(saved))
        raise ValueError(
            f"{name}: expected {counts[0]} arrays in another structure than the {counts[1]} found"
        ) from error
    values = []
    for expected, value in zip(tf.nest.flatten(like), tf.nest.flatten(saved), strict=True):
        array, dtype = np.asarray(value), tf.as_dtype(expected.dtype)
        if array.shape != tuple(expected.shape) or array.dtype != dtype.as_numpy_dtype:
            raise ValueError(
                f"{name}: expected {dtype.name} of shape {tuple(expected.shape)}, found "
                f"{array.dtype.name} of shape {array.shape}"
            )
        if np.issubdtype(array.dtype, np.floating) and not np.all(np.isfinite(array)):
            raise ValueError(f"{name}: not all of its numbers are finite")
        values.append(tf.constant(array))
    return tf.nest.pack_sequence_as(like, values)


def finite_numbers(saved: Any, name: str) -> list[float]:
    """Returns a saved list of floating numbers.

    Args:
      saved: The list as it was read.
      name: The name of the list in messages.

    Raises:
      ValueError: If it is something else, or a number is not finite.
    """
    array = np.asarray(saved)
    if (
        array.ndim != 1
        or (array.size and array.dtype.kind != "f")
        or not np.all(np.isfinite(array))
    ):
        raise ValueError(f"{name}: expected a row of finite floating numbers")
    return [float(value) for value in array]


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError):  # arrays, which settings never are
        return False


def _to_array(value: Any) -> Any:
    return np.asarray(value) if tf.is_tensor(value) else value
