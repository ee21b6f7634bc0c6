"""The record of a run: metrics as JSON lines and as TensorBoard summaries."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from replay import replace_file

FILE = "metrics.jsonl"


class RunLog:
    """Appends a line of metrics a step; what a continued run repeats, it replaces."""

    def __init__(self, folder: str | Path | None, step: int = 0):
        """Opens the record.

        Args:
          folder: Where; None keeps the lines in memory only.
          step: The step that the run continues from: later lines of an earlier attempt are
            dropped.
        """
        self.lines: list[dict[str, Any]] = []
        self._file = None
        self._writer = None
        if folder is None:
            return
        path = Path(folder) / FILE
        if path.exists():
            self.lines = [line for line in read(path) if line["step"] <= step]
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
            value = value if isinstance(value, (str, int, bool)) else float(value)
            finite = not isinstance(value, float) or math.isfinite(value)
            line[name] = value if finite else None
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

    def close(self) -> None:
        """Closes the files."""
        if self._file is not None and self._writer is not None:
            self._file.close()
            self._writer.close()


def read(path: str | Path) -> list[dict[str, Any]]:
    """Reads a record.

    Args:
      path: The file; a last line that a kill cut short is left out.

    Returns:
      A dictionary a line.
    """
    lines = []
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
