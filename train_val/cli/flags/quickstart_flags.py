"""The flags of `quickstart.py`."""

from __future__ import annotations

from train_val.cli.definitions import text


def define_flags() -> None:
    """Defines the flags."""
    text("model_dir", "runs/quickstart", "The folder for everything.", "Files")
