"""Seeds of an experiment that other processes run: the same runs as here."""

import json

import pytest

from tests.train_val import commands
from train_val.experiments import reporting, rgd_nn
from train_val.training import seeds_apart

FLAGS = ("--seeds=2,0,1", "--iterations=3")


class InTurn:
    """An executor that does here what it is given."""

    def __init__(self, jobs):
        self.jobs = jobs

    def map(self, *given):
        return map(*given)


def runs(folder, *more):
    commands.run(rgd_nn, *FLAGS, f"--output={folder}", *more)
    found = json.loads((folder / "rgd_nn.json").read_text())
    assert list(found) == ["2", "0", "1", "flags"] and found["flags"] == {"iterations": 3}
    return found


def drawn_small(monkeypatch):
    """Lets an experiment make small runs and draw nothing."""
    monkeypatch.setattr(rgd_nn, "draw", lambda found, path: None)
    monkeypatch.setattr(rgd_nn, "as_markdown", lambda found: "")


def test_an_executor_makes_the_runs(tmp_path, monkeypatch):
    drawn_small(monkeypatch)
    monkeypatch.setattr(rgd_nn, "run", lambda name, seed, iterations: [name, seed, iterations])
    monkeypatch.setattr(reporting, "ProcessExecutor", InTurn)
    expected = runs(tmp_path / "one")
    assert expected["2"]["two layers"] == ["two layers", 2, 3]
    assert runs(tmp_path / "several", "--jobs=2") == expected


def test_a_run_that_nobody_asked_for_is_not_made():
    assert seeds_apart.hand_over(lambda seed: pytest.fail("ran")) is None


@pytest.mark.slow
def test_processes_make_the_same_runs(tmp_path, monkeypatch):
    drawn_small(monkeypatch)
    expected = runs(tmp_path / "one")
    assert without_seconds(runs(tmp_path / "several", "--jobs=2")) == without_seconds(expected)


def without_seconds(found):
    """Returns a structure of JSON without entries that are times."""
    if isinstance(found, dict):
        return {k: without_seconds(v) for k, v in found.items() if "seconds" not in k}
    return [without_seconds(v) for v in found] if isinstance(found, list) else found
