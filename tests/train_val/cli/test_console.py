"""The command `mlhf`."""

import subprocess
import sys

import pytest

import mlhf
from tests.train_val.cli.test_commands import COMMANDS
from tests.train_val.commands import ROOT
from train_val.cli import console


def mlhf_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "train_val.cli.console", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_each_script_has_a_command():
    scripts = {f"train_val/{script}.py" for script, _ in console.COMMANDS.values()}
    assert scripts == {path for path in COMMANDS if "experiments" not in path}


def test_help_lists_the_commands():
    done = mlhf_command("--help")
    assert done.returncode == 0
    for name, (_, text) in console.COMMANDS.items():
        assert any(line.startswith(f"  {name} ") for line in done.stdout.splitlines())
        assert text.split()[0] in done.stdout


@pytest.mark.parametrize("name", ["train", "fetch-cifar10"])
def test_a_command_runs_its_script(name):
    done = mlhf_command(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"    mlhf {name} --FLAG=VALUE ..." in done.stdout
    assert mlhf_command(name, "--no_such_flag=1").returncode == 2


def test_the_version():
    assert mlhf_command("--version").stdout == f"mlhf {mlhf.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "mlhf COMMAND --FLAG=VALUE"), (("trian",), "got 'trian'. Did you mean train?")],
)
def test_a_wrong_call_has_status_2(arguments, words):
    done = mlhf_command(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
