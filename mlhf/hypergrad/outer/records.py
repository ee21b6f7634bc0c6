"""The records of a hyperparameter optimization: a file of arrays for each outer step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from replay import UnreadableFileError, read_structure, write_structure

_RECORD = re.compile(r"record-(\d{6,})\.npz")


def read_records(folder: str | Path) -> list[dict[str, Any]]:
    """Reads the records of a run.

    Args:
      folder: The folder of the run.

    Returns:
      A dictionary of arrays for each outer step, in order.

    Raises:
      DamagedFileError: If a file is damaged or is not a record.
    """
    return [read_structure(path) for path in record_files(Path(folder)).values()]


def record_files(folder: Path) -> dict[int, Path]:
    """Returns the files of a folder's records by outer step, ascending."""
    found = ((_RECORD.fullmatch(path.name), path) for path in folder.glob("record-*.npz"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def readable_records(paths: list[Path]) -> list[dict[str, Any]]:
    """Reads records and leaves damaged ones out, since no later step depends on them."""
    records = []
    for path in paths:
        try:
            record = read_structure(path)
            if not isinstance(record, dict) or not {"step", "skipped"} <= set(record):
                raise UnreadableFileError(f"{path} is not the record of an outer step.", str(path))
            records.append(record)
        except UnreadableFileError as error:
            tqdm.write(f"Left out: {error}")
    return records


def write_record(folder: Path, step: int, record: Mapping[str, Any]) -> None:
    """Writes the record of an outer step.

    Args:
      folder: The folder of the run.
      step: The number of outer steps done, including this one.
      record: The arrays of the record, by name.
    """
    write_structure(folder / f"record-{step:06d}.npz", record)
