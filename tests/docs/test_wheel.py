"""The package as a wheel brings it; `scripts/check_wheel.sh` runs this where no checkout is."""

import importlib
import importlib.util
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import mlhf

PACKAGES = ("mlhf", "mlhf.custom_op", "mlhf.replay", "mlhf.train_val")
COMMANDS = (
    *("quickstart", "train", "train-imagenet", "meta-train", "compare", "tune"),
    *("fetch-cifar10", "tfrecords"),
)
SLOWEST_HELP = 2.0
in_wheel = pytest.mark.skipif(
    "MLHF_WHEEL" not in os.environ,
    reason="scripts/check_wheel.sh runs it where the package is installed",
)


def mlhf_command(*arguments):
    return subprocess.run(
        [Path(sys.prefix) / "bin" / "mlhf", *arguments], capture_output=True, text=True
    )


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


@in_wheel
def test_no_general_name_is_taken():
    # Another project's package `replay` is there, and what it was.
    assert not hasattr(importlib.import_module("replay"), "Sample")
    from mlhf import replay

    assert len(replay.PrioritizedReplay(2)) == 0
    for name in ("custom_op", "train_val"):
        assert importlib.util.find_spec(name) is None


@in_wheel
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_answer(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    asked = mlhf_command(command, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor: other jobs beside the tests do not count.
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert asked.returncode == 0, asked.stderr
    assert f"mlhf {command} --FLAG=VALUE" in asked.stdout
    assert seconds < SLOWEST_HELP


@in_wheel
def test_a_pretrained_optimizer_trains_by_a_command(tmp_path):
    done = mlhf_command(
        *("train", "--data=digits", "--problem=mlp", "--optimizer=meta", "--meta_ckpt=convnet"),
        *("--max_steps=2", f"--model_dir={tmp_path}"),
    )
    assert done.returncode == 0, done.stderr
    assert "2 steps: loss on" in done.stdout


@in_wheel
def test_a_comparison_measures_costs_in_a_process_of_its_own(tmp_path):
    done = mlhf_command(
        *("compare", "--problem=mlp", "--data=digits", "--optimizers=adam:lr=0.01", "--steps=2"),
        *("--seeds=1", f"--model_dir={tmp_path}"),
    )
    assert done.returncode == 0, done.stderr
    assert "Adam" in (tmp_path / "comparison.md").read_text()


@pytest.mark.skipif("MLHF_WITHOUT_TFDS" not in os.environ, reason="tensorflow-datasets is there")
def test_without_tensorflow_datasets_a_command_says_what_to_install(tmp_path):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("tensorflow_datasets")
    done = mlhf_command(
        "train", "--data=mnist", "--optimizer=adam", "--max_steps=1", f"--model_dir={tmp_path}"
    )
    assert done.returncode == 1
    assert "pip install --upgrade tensorflow-datasets" in done.stderr
