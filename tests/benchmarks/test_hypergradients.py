"""The benchmark of hypergradients, at its smallest settings."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.hypergradients import __main__ as command
from benchmarks.hypergradients import report, workload
from tests.project import ROOT


def _row(framework="tensorflow", method="reverse, stored", dtype="float32", **more):
    return {
        "framework": framework,
        "method": method,
        "dtype": dtype,
        "steps": 100,
        "hidden": 50,
        "columns": 2,
        "threads": 1,
        "version": framework,
        "parameters": 44_860,
        "megabytes": 50.0,
        "megabytes_of_few_steps": 10.0,
        "hypergradient": [2.0, -4.0],
        "seconds": [3.0, 6.0],
        "processor_seconds": [2.5, 2.0],
        "train_seconds": [2.0, 1.0],
        "processor_train_seconds": [1.0, 1.5],
        **more,
    }


def test_table_of_known_figures():
    rows = [
        _row(dtype="float64"),
        _row(hypergradient=[2.0, -4.004], estimate=[35.9, 3.0]),
        _row("torch", "higher", hypergradient=[2.0, -4.04]),
        _row("torch", "betty", failed="over 6 GB"),
    ]
    lines = report.table(rows, 100)[2:]
    assert lines == [
        "| `reverse` | 3.0 (2.0) | 20.00 | 40 | 1e-03 |  | 35.9, 3.0 |",
        "| higher | 3.0 (2.0) | 20.00 | 40 | 1e-02 | 9e-03 |  |",
        "| betty | over 6 GB | | | | | |",
    ]


def test_what_was_measured_stays_and_what_was_too_large_is_not_tried_longer(tmp_path, monkeypatch):
    path = tmp_path / "benchmarks.jsonl"
    key = {"framework": "torch", "steps": 5, "hidden": 50, "columns": 2, "dtype": "float32"}
    path.write_text(json.dumps({**key, "method": "higher", "failed": "over 6 GB"}) + "\n")
    asked = []

    def measure(request, gigabytes, seconds):
        asked.append((request["method"], request["steps"]))
        return {"failed": "a reason"}

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command.report, "write", lambda rows, folder: None)
    arguments = ["--steps", "5", "7", "--methods", "higher", "betty", "--columns", "--hidden"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, f"--output={tmp_path}"])
    command.main()
    assert asked == [("betty", 5)]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["method"], r["steps"], r["failed"]) for r in rows] == [
        ("higher", 5, "over 6 GB"),
        ("betty", 5, "a reason"),
        ("higher", 7, "over 6 GB"),
        ("betty", 7, "a reason"),
    ]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts the command without its work; returns what it measures and what its page shows."""

    def start(*given, result):
        asked, shown = [], []

        def measure(request, gigabytes, seconds):
            asked.append((request["method"], request["threads"], request["rounds"]))
            return dict(result)

        monkeypatch.setattr(command, "measure", measure)
        monkeypatch.setattr(command.report, "write", lambda rows, folder: shown.extend(rows))
        arguments = ["--steps", "5", "--methods", "higher", "betty", "--columns", "--hidden"]
        monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, f"--output={tmp_path}", *given])
        command.main()
        return asked, shown

    return start


def test_a_line_that_a_kill_cut_short_is_measured_again(start, tmp_path):
    path = tmp_path / "benchmarks.jsonl"
    start(result={"seconds": [1.0]})
    path.write_text(path.read_text()[:-9])
    asked, shown = start(result={"seconds": [2.0]})
    assert asked == [("betty", 1, 3)]
    assert [row["seconds"] for row in shown] == [[1.0], [2.0]]
    assert start(result={})[0] == []
    assert json.loads(path.read_text().splitlines()[-1])["seconds"] == [2.0]


def test_what_was_not_installed_is_tried_again(start, tmp_path):
    missing = {"failed": "ModuleNotFoundError: No module named 'torch'"}
    asked, shown = start(result=missing)
    # The page says why there is no figure.
    assert len(asked) == 2 and [row["failed"] for row in shown] == [missing["failed"]] * 2
    # So wrote earlier versions.
    (tmp_path / "benchmarks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    asked, shown = start(result={"seconds": [1.0]})
    assert len(asked) == 2 and not any("failed" in row for row in shown)
    assert start(result={})[0] == []


def test_other_threads_and_rounds_are_other_measures(start):
    start(result={"seconds": [1.0]})
    asked, shown = start("--threads=2", result={"seconds": [2.0]})
    assert asked == [("higher", 2, 3), ("betty", 2, 3)]
    assert [row["seconds"] for row in shown] == [[2.0]] * 2
    asked, shown = start("--rounds=1", "--methods", "betty", result={"seconds": [3.0]})
    assert asked == [("betty", 1, 1)]
    # One figure of each, of as many threads.
    assert {row["method"]: row["seconds"] for row in shown} == {"higher": [1.0], "betty": [3.0]}


@pytest.mark.slow
def test_all_frameworks_give_the_same_hypergradient():
    found = {}
    frameworks = {"tensorflow": "reverse, checkpoints"}
    if importlib.util.find_spec("torch"):
        frameworks["torch"] = "autograd"
    for framework, method in frameworks.items():
        request = {
            "framework": framework,
            "method": method,
            "steps": 6,
            "hidden": 8,
            "columns": 2,
            "dtype": "float64",
            "threads": 1,
            "rounds": 1,
        }
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.hypergradients.worker", json.dumps(request)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        found[framework] = json.loads(done.stdout)
    assert found["tensorflow"]["parameters"] == workload.Workload(6, hidden=8).parameters
    for other in found.values():
        np.testing.assert_allclose(
            other["hypergradient"], found["tensorflow"]["hypergradient"], rtol=1e-9
        )
