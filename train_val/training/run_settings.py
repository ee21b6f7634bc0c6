"""The settings of a run, stored in its folder: a run can only be continued with the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlhf.runs.checkpoints import check_same_run
from replay import read_json, replace_file

FILE = "settings.json"


def check(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuses a folder whose checkpoints were made with other settings.

    Args:
      folder: The run's folder. A folder without checkpoints or without settings passes.
      settings: The settings of the run that would continue it.

    Raises:
      CheckpointError: If settings differ; the message names them.
      DamagedFileError: If the file of the settings is damaged or something else.
    """
    path = folder / FILE
    # A run that ended before its first checkpoint left nothing to continue.
    if not path.exists() or not list(folder.glob("checkpoint-*.npz")):
        return
    stored = read_json(path, "the flags that the folder's checkpoints were made with")
    check_same_run(str(folder), stored, json.loads(json.dumps(settings)))


def write(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings into the folder.

    Args:
      folder: An existing folder.
      settings: Plain values by name.
    """
    with replace_file(folder / FILE) as file:
        file.write(json.dumps(settings, indent=1).encode())
