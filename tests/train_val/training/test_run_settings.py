"""The settings that a folder keeps: those of its checkpoints, or a sentence."""

import json

import pytest

from mlhf.runs.checkpoints import CheckpointError
from replay import DamagedFileError
from tests import damage
from train_val.training import run_settings


def test_settings_are_compared_where_there_is_something_to_continue(tmp_path):
    run_settings.write(tmp_path, {"lr": 1.0, "tasks": None})
    run_settings.check(tmp_path, {"lr": 2.0, "tasks": None})
    (tmp_path / "checkpoint-000000001.npz").touch()
    run_settings.check(tmp_path, {"lr": 1.0, "tasks": None})
    with pytest.raises(CheckpointError, match="lr: expected 2.0, found 1.0"):
        run_settings.check(tmp_path, {"lr": 2.0, "tasks": None})


def test_damaged_settings_are_named(tmp_path):
    settings = {"lr": 1.0, "tasks": None}
    run_settings.write(tmp_path, settings)
    (tmp_path / "checkpoint-000000001.npz").touch()
    path = tmp_path / run_settings.FILE
    whole = path.read_bytes()
    for name, content in damage.damaged(whole):
        damage.put(path, content)
        with pytest.raises((DamagedFileError, CheckpointError)) as caught:
            run_settings.check(tmp_path, settings)
        told = str(caught.value)
        assert str(tmp_path) in told and "\n" not in told and "elete" not in told, name
    path.rename(tmp_path / "elsewhere")
    path.write_text(json.dumps(settings))
    run_settings.check(tmp_path, settings)
