"""The package as a wheel brings it; `scripts/check_wheel.sh` runs this where no checkout is."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlhf

PACKAGES = ("custom_op", "mlhf", "replay", "train_val")
COMMANDS = ("compare_optimizers", "quickstart", "train_meta_optimizer", "use_meta_optimizer")


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_say_that_they_are_typed(name):
    package = Path(importlib.import_module(name).__file__).parent
    assert (package / "py.typed").exists()
    if "MLHF_WHEEL" in os.environ:
        assert Path(sys.prefix) in package.parents


def test_the_version_is_that_of_the_package():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", mlhf.__version__)


def test_what_is_pretrained_ships():
    assert mlhf.pretrained_names()
    for name in mlhf.pretrained_names():
        assert mlhf.MetaHessianFree.from_pretrained(name).weights


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_answer(command):
    if "MLHF_WHEEL" not in os.environ:
        pytest.skip("scripts/check_wheel.sh runs it where the package is installed")
    asked = subprocess.run(
        [sys.executable, "-m", f"train_val.{command}", "--help"], capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr
    assert "--" in asked.stdout
