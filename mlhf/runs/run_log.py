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
# The suffix of the copy of a record of which lines are left out.
DAMAGED = ".damaged"


class RunLog:
    """Appends a line of metrics for each step; lines of steps that are repeated are replaced."""

    def __init__(self, folder: str | Path | None, step: int = 0) -> None:
        """Opens the record.

        Args:
          folder: The folder of the record; None keeps the lines in memory only.
          step: The step that the run continues from: later lines of an earlier attempt are
            dropped, and so are lines that are damaged or of something else, for which the file as
            it was is kept beside it as metrics.jsonl.damaged.

        Raises:
          DamagedFileError: If a directory has the name of the file.
          OSError: If it can't be read or written.
        """
        self.lines: list[dict[str, Any]] = []
        self._file = None
        self._writer = None
        if folder is None:
            return
        path = Path(folder) / FILE
        if path.exists():
            earlier = read_lines(path)
            steps = [line for line in earlier.lines if _is_step(line.get("step"))]
            if earlier.damaged or len(steps) < len(earlier.lines):
                # The file, which is about to be replaced, holds more than this class's own lines.
                shutil.copyfile(path, path.with_name(path.name + DAMAGED))
            # Of two lines of one step the later counts: nothing was continued from the other.
            latest = {line["step"]: line for line in steps if line["step"] <= step}
            self.lines = [
                {n: _plain(value) for n, value in line.items()} for line in latest.values()
            ]
            with replace_file(path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in self.lines).encode())
        self._file = path.open("a", encoding="utf-8")
        self._writer = tf.summary.create_file_writer(str(folder))

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Records the metrics of a step.

        Args:
          step: The number of steps done.
          metrics: Scalars by name. Values that are not finite are recorded as null.
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
                    # A Python number would become float32, which can't hold larger ones.
                    tf.summary.scalar(name, np.float64(value))

    def flush(self) -> None:
        """Writes out lines that are still in memory, so that they outlive a kill."""
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
      path: The file of the record.

    Returns:
      A dictionary for each line. Lines that hold none are left out: a last line that a kill cut
      short, and damaged lines, about which a message is printed.

    Raises:
      DamagedFileError: If a directory has the name of the file.
      OSError: If it can't be read.
    """
    return read_lines(path).lines


def read_lines(path: str | Path) -> JsonLines:
    """Reads a record like `read`; the result's `torn` says whether the last line lacks its end."""
    record = read_json_lines(path)
    if record.damaged:
        first = f"number {record.damaged[0]}"
        which = "line" if len(record.damaged) == 1 else "lines"
        tqdm.tqdm.write(
            f"Left out: {len(record.damaged)} damaged {which} of {path} ({first}"
            f"{'' if len(record.damaged) == 1 else ' the first'})."
        )
    return record


def _plain(value: Any) -> Any:
    """Returns None for a number that is not finite, which JSON does not have; others unchanged."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
