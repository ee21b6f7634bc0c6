"""The install that the scripts share: which .venv it makes, keeps, replaces and leaves alone."""

import ast
import os
import shutil
import subprocess

import pytest

from tests.project import ROOT

# Makes environments whose Python is itself; what it is asked to install is a line of calls.
PYTHON = """#!/usr/bin/env bash
case "$*" in
*"import sys, venv, ensurepip"*) exit 0 ;;
*"print(sys.version)"*) echo 3.12 ;;
--version) echo Python 3.12 ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/python3" ;;
"-m pip "*)
    echo "$*" >>"{place}/calls"
    [ ! -e "{place}/no_network" ] || exit 1
    ;;
esac
"""
PIPS = 3  # of an install


@pytest.fixture
def place(tmp_path):
    """A project with the scripts, and a Python in bin."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "common.sh", tmp_path / "scripts")
    (tmp_path / "requirements").mkdir()
    for name in ("pyproject.toml", "requirements/build.txt"):
        (tmp_path / name).write_text("1\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(PYTHON.replace("{place}", str(tmp_path)))
    (tmp_path / "bin" / "python3").chmod(0o755)
    return tmp_path


def install(place, path="{place}/bin:/usr/bin:/bin", python=None):
    """Installs; returns the process and how often pip ran."""
    (place / "calls").write_text("")
    process = subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            f"source {place}/scripts/common.sh; install_package; pwd",
        ],
        capture_output=True,
        text=True,
        env={
            "PATH": path.format(place=place),
            "HOME": str(place),
            **({} if python is None else {"PYTHON": python}),
        },
    )
    return process, len((place / "calls").read_text().splitlines())


def test_the_first_call_installs_and_later_ones_do_not(place):
    process, pips = install(place)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == str(place) and pips == PIPS
    assert (place / ".venv" / ".installed-run").exists()
    assert not (place / ".venv" / ".unfinished").exists()
    process, pips = install(place)
    assert process.returncode == 0 and process.stdout == f"{place}\n" and pips == 0
    # Other pins go into the same environment.
    (place / ".venv" / "kept").touch()
    (place / "requirements" / "build.txt").write_text("2\n")
    process, pips = install(place)
    assert process.returncode == 0 and pips == PIPS and (place / ".venv" / "kept").exists()


@pytest.mark.parametrize("kind", ["usable", "unusable", "link"])
def test_an_environment_of_someone_else_is_left_alone(kind, place):
    folder = place / ("elsewhere" if kind == "link" else ".venv")
    (folder / "bin").mkdir(parents=True)
    (folder / "work").write_text("mine\n")
    if kind != "unusable":
        shutil.copy(place / "bin" / "python3", folder / "bin" / "python")
    if kind == "link":
        (place / ".venv").symlink_to(folder)
    process, pips = install(place)
    assert process.returncode == 1 and pips == 0
    assert f"Expected no {place}/.venv or one that these scripts made" in process.stderr
    assert "move it away" in process.stderr
    found = sorted(path.name for path in (place / ".venv").iterdir())
    assert found == ["bin", "work"]


@pytest.mark.parametrize("mark", [".unfinished", ".installed-run", ".installed-test"])
def test_one_that_was_made_here_is_replaced(mark, place):
    """Its Python does not work, or it was killed."""
    (place / ".venv" / "lib").mkdir(parents=True)
    (place / ".venv" / mark).touch()
    process, pips = install(place)
    assert process.returncode == 0, process.stderr
    assert pips == PIPS and not (place / ".venv" / "lib").exists()


def test_a_failed_install_starts_anew(place):
    (place / "no_network").touch()
    process, _ = install(place)
    assert process.returncode == 1 and "is the network there?" in process.stderr
    (place / ".venv" / "half").touch()
    (place / "no_network").unlink()
    # Also where the one that goes is activated.
    process, pips = install(place, "{place}/.venv/bin:{place}/bin:/usr/bin:/bin")
    assert process.returncode == 0, process.stderr
    assert pips == PIPS and not (place / ".venv" / "half").exists()
    # A kill may leave an empty one.
    shutil.rmtree(place / ".venv")
    (place / ".venv").mkdir()
    process, pips = install(place)
    assert process.returncode == 0 and pips == PIPS


def test_nothing_is_removed_where_no_other_can_be_made(place):
    (place / ".venv").mkdir()
    (place / ".venv" / ".installed-run").touch()
    tools = place / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "cat", "flock", "rm", "mkdir", "touch", "ls"):
        if found := shutil.which(name):
            (tools / name).symlink_to(os.path.realpath(found))
    process, _ = install(place, str(tools))
    assert process.returncode == 1 and "No Python 3.10 to 3.13" in process.stderr
    assert (place / ".venv" / ".installed-run").exists()


def test_a_chosen_python_that_does_not_do_is_refused_with_its_own_words(place):
    chosen = place / "bin" / "python3.12"
    chosen.write_text("#!/bin/sh\necho pyenv: python3.12: command not found >&2\nexit 127\n")
    chosen.chmod(0o755)
    process, pips = install(place, python="python3.12")
    assert process.returncode == 1 and pips == 0
    assert "PYTHON=python3.12 is not a Python 3.10 to 3.13" in process.stderr
    assert "(pyenv: python3.12: command not found)" in process.stderr
    # With pyenv the version that has it is taken, though it is not switched on.
    installed = place / "pyenv" / "versions" / "3.12.7" / "bin"
    installed.mkdir(parents=True)
    shutil.copy(place / "bin" / "python3", installed / "python3.12")
    (place / "bin" / "pyenv").write_text(
        f'#!/bin/sh\ncase "$1" in whence) echo 3.12.7 ;; root) echo {place}/pyenv ;; esac\n'
    )
    (place / "bin" / "pyenv").chmod(0o755)
    process, pips = install(place, python="python3.12")
    assert process.returncode == 0, process.stderr
    assert pips == PIPS and (place / ".venv" / "bin" / "python").exists()


def test_a_wheels_tests_import_none_that_stay_behind(tmp_path):
    command = f"source {ROOT}/scripts/common.sh; copy_wheel_tests {tmp_path}"
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)
    copied = sorted(tmp_path.rglob("*.py"))
    assert len(copied) >= 4
    for path in copied:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tests":
                for module in (f"{node.module}.{name.name}" for name in node.names):
                    place = tmp_path.joinpath(*module.split("."))
                    found = (place.with_suffix(".py"), place.parent.with_suffix(".py"))
                    assert any(file.exists() for file in found), f"{path.name}: {module}"
