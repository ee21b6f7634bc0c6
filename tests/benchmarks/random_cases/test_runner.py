"""The runner of random cases, without TensorFlow."""

import json

import pytest

from benchmarks.random_cases import __main__ as command
from benchmarks.random_cases import report, runner
from benchmarks.random_cases.outcome import FAILED, OK, REFUSED, Outcome


@pytest.fixture
def checked(monkeypatch):
    """Stands in for the processes; says which seeds were asked for, odd ones fail."""
    asked = []

    def check(kind, how, seeds, timeout):
        for seed in seeds:
            asked.append(seed)
            state = FAILED if seed % 2 else OK
            outcome = Outcome(seed, {"graph": state}, ["Tanh"], ["off"], "program", ["J v"])
            yield {"kind": kind, **outcome.record()}

    monkeypatch.setattr(runner, "_checked", check)
    return asked


def test_a_run_continues_where_it_was(tmp_path, checked):
    runner.run("networks", range(4), tmp_path, chunk=3)
    with (tmp_path / runner.RECORDS).open("a") as file:
        file.write('{"seed": 4, "mod')  # cut off by a kill
    records = runner.run("networks", range(6), tmp_path)
    assert checked == [0, 1, 2, 3, 4, 5]
    assert sorted(records) == sorted(runner.read(tmp_path)) == list(range(6))


def test_failed_cases_are_checked_again(tmp_path, checked):
    runner.run("networks", range(4), tmp_path)
    checked.clear()
    runner.run("networks", range(4), tmp_path, again=runner.failed, jobs=2)
    assert sorted(checked) == [1, 3]


def test_the_command_writes_a_page_and_the_failures(tmp_path, checked, capsys):
    flags = ["networks", "--count=3", f"--output={tmp_path}", f"--report={tmp_path / 'page'}"]
    assert command.main(flags) == 1
    assert "3 cases, 1 failed: [1]" in capsys.readouterr().out
    page = (tmp_path / "page" / "README.md").read_text()
    assert "| graph | 2 | 0 | 0 | 0 | 1 |" in page
    assert "- 1: off" in page
    assert "| Tanh | 3 | 2 |" in page
    failures = (tmp_path / "page" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["program"] for line in failures] == ["program"]


def test_only_failures_and_refusals_keep_their_program():
    kept = [Outcome(1, {"graph": s}, program="p").record() for s in (OK, FAILED, REFUSED)]
    assert ["program" in record for record in kept] == [False, True, True]


def test_wrong_flags_are_refused():
    for flag in ("--count=0", "--start=-1", "--timeout=nan"):
        with pytest.raises(SystemExit) as error:
            command.main(["networks", flag])
        assert error.value.code == 2


def test_an_empty_report():
    assert "0 cases" in report.page("command", [])


@pytest.mark.slow
def test_processes(tmp_path):
    records = runner.run("networks", [1, 2], tmp_path, chunk=1)
    assert not any(map(runner.failed, records.values()))
