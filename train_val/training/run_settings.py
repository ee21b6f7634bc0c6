"""The flags that a folder of a run was made with: what it may be continued with."""

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
      folder: The run's folder. One without checkpoints, or from before settings were kept, passes.
      settings: The settings of the run that would continue it.

    Raises:
      CheckpointError: If they differ; the message names what.
      DamagedFileError: If what stands in the place of the settings is something else.
    """
    path = folder / FILE
    # A run that ended before its first checkpoint left nothing to continue.
    if not path.exists() or not list(folder.glob("checkpoint-*.npz")):
        return
    found = read_json(path, "the flags that the folder's checkpoints were made with")
    check_same_run(str(folder), found, json.loads(json.dumps(settings)))


def write(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keeps the settings in the folder.

    Args:
      folder: An existing one.
      settings: Plain values by name.
    """
    with replace_file(folder / FILE) as file:
        file.write(json.dumps(settings, indent=1).encode())
