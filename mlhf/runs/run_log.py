"""The record of a run: metrics as JSON lines and as TensorBoard summaries."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from replay import JsonLines, read_json_lines, replace_file

FILE = "metrics.jsonl"
# What a record is copied to, as it was, where lines of it are left out.
DAMAGED = ".damaged"


class RunLog:
    """Appends a line of metrics for each step; what a continued run repeats, it replaces."""

    def __init__(self, folder: str | Path | None, step: int = 0):
        """Opens the record.

        Args:
          folder: Where the record goes; None keeps the lines in memory only.
          step: The step that the run continues from: later lines of an earlier attempt are
            dropped, and lines that are damaged or of something else; of the latter the file as it
            was is kept beside it, as metrics.jsonl.damaged.

        Raises:
          DamagedFileError: If a directory stands in the place of the file.
          OSError: If it can't be read or written.
        """
        self.lines: list[dict[str, Any]] = []
        self._file = None
        self._writer = None
        if folder is None:
            return
        path = Path(folder) / FILE
        if path.exists():
            read_before = read_lines(path)
            steps = [line for line in read_before.lines if _is_step(line.get("step"))]
            if read_before.damaged or len(steps) < len(read_before.lines):
                # Not all of it is this class's own, and the file is about to be replaced.
                shutil.copyfile(path, path.with_name(path.name + DAMAGED))
            # Of two lines of one step the later counts: nothing was continued from the other.
            found = {line["step"]: line for line in steps if line["step"] <= step}
            self.lines = [
                {n: _plain(value) for n, value in line.items()} for line in found.values()
            ]
            with replace_file(path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in self.lines).encode())
        self._file = path.open("a", encoding="utf-8")
        self._writer = tf.summary.create_file_writer(str(folder))

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Records the metrics of a step.

        Args:
          step: Steps done.
          metrics: Scalars by name. What is not finite is recorded as null.
        """
        line: dict[str, Any] = {"step": step}
        for name, value in metrics.items():
            line[name] = _plain(value if isinstance(value, (str, int, bool)) else float(value))
        self.lines.append(line)
        if self._file is None or self._writer is None:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        with self._writer.as_default(step):
            for name, value in line.items():
                if name != "step" and isinstance(value, (int, float)):
                    # Of float32, which a Python number beyond it could not become.
                    tf.summary.scalar(name, np.float64(value))

    def flush(self) -> None:
        """Writes out what is still in memory, so that it outlives a kill as a checkpoint does."""
        if self._file is not None and self._writer is not None:
            self._file.flush()
            self._writer.flush()

    def close(self) -> None:
        """Closes the files."""
        if self._file is not None and self._writer is not None:
            self._file.close()
            self._writer.close()


def read(path: str | Path) -> list[dict[str, Any]]:
    """Reads a record.

    Args:
      path: The file.

    Returns:
      A dictionary for each line. Lines that hold none are left out: a last one that a kill cut
      short, and those that were damaged since, of which a sentence is written.

    Raises:
      DamagedFileError: If a directory stands in the place of the file.
      OSError: If it can't be read.
    """
    return read_lines(path).lines


def read_lines(path: str | Path) -> JsonLines:
    """Reads a record as `read`; its `torn` says whether the last line lacks its end."""
    found = read_json_lines(path)
    if found.damaged:
        first = f"number {found.damaged[0]}"
        which = "line" if len(found.damaged) == 1 else "lines"
        tqdm.tqdm.write(
            f"Left out: {len(found.damaged)} damaged {which} of {path} ({first}"
            f"{'' if len(found.damaged) == 1 else ' the first'})."
        )
    return found


def _plain(value: Any) -> Any:
    """Returns null for a number that is not finite, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
