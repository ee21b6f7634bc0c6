"""Checkpoints of a run: one file each, written whole or not at all, the newest two kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from replay import (
    DamagedFileError,
    DirectoryLock,
    read_structure,
    remove_temporary_files,
    write_structure,
)

KEEP = 2
_NAME = re.compile(r"checkpoint-(\d{9})\.npz$")


class CheckpointError(ValueError):
    """A checkpoint can't be used; the message says why and what to do."""


class Checkpoints:
    """The checkpoints of one folder."""

    def __init__(self, folder: str | Path, alone: bool = False):
        """Opens a folder, and makes it where it is not there.

        Args:
          folder: Where the run keeps its files.
          alone: Whether the folder is this run's alone until `close`, or until its process ends:
            two runs would replace each other's files. What a killed one left half-written goes.

        Raises:
          CheckpointError: If another run has it alone.
          OSError: If it can't be made or written to; the message says what to do.
        """
        self._lock: DirectoryLock | None = None
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".writable"
            probe.touch()
            probe.unlink()
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
        """Leaves the folder to others."""
        if self._lock is not None:
            self._lock.release()

    def steps(self) -> list[int]:
        """Returns the steps that there are checkpoints of, ascending."""
        found = (_NAME.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match.group(1)) for match in found if match)

    def write(self, step: int, content: Any) -> None:
        """Writes a checkpoint and then removes those older than the newest two.

        Args:
          step: Steps done.
          content: A structure of tensors, arrays and plain values.

        Raises:
          CheckpointError: If a floating tensor in it is not finite; nothing is written.
          OSError: If it can't be written.
        """
        content = tf.nest.map_structure(_to_array, content)
        for value in tf.nest.flatten(content):
            if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
                if not np.all(np.isfinite(value)):
                    raise CheckpointError(
                        f"The state at step {step} holds numbers that are not finite; it was not "
                        "saved, and the checkpoints before it are untouched."
                    )
        write_structure(self._path(step), content)
        for old in self.steps()[:-KEEP]:
            self._path(old).unlink()

    def read(self, step: int | None = None) -> tuple[int, Any] | None:
        """Reads a checkpoint.

        Args:
          step: Which; the newest by default.

        Returns:
          Its step and content, or None where there is none.

        Raises:
          CheckpointError: If it is damaged.
        """
        steps = self.steps()
        if not steps:
            return None
        step = steps[-1] if step is None else step
        try:
            return step, read_structure(self._path(step))
        except DamagedFileError as error:
            raise CheckpointError(
                f"{error} Remove that file to continue from the checkpoint before it, or the "
                "folder to begin again."
            ) from error

    def _path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:09d}.npz"


def check_same_run(place: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuses what was made with other settings than those of the run that would continue it.

    Args:
      place: What holds them, to begin a sentence with.
      found: The settings there, by name.
      expected: Those of this run.

    Raises:
      CheckpointError: If any differ or stand on one side only; the message names them.
    """
    differing = [
        f"{name}: expected {expected.get(name)}, found {found.get(name)}"
        for name in sorted(set(found) | set(expected))
        if found.get(name) != expected.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{place} is of another run ({'; '.join(differing)}). Give the flags that it was made "
            "with, or another folder."
        )


def _to_array(value: Any) -> Any:
    return np.asarray(value) if tf.is_tensor(value) else value
