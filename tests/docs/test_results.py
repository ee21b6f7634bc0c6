"""docs/results.md: its commands are understood, and its tables are those of its folders."""

import json
import re
import shlex
import shutil
import sys

import pytest
from absl import flags

from benchmarks import convnet_comparison
from tests.docs.pages import ROOT
from tests.train_val.commands import run
from tests.train_val.comparison.problems import problem
from train_val import compare_optimizers, comparison, task_families

FLAGS = flags.FLAGS
TEXT = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
WEIGHTS = ROOT / "docs" / "results" / "convnet_meta_training" / "meta_optimizer.npz"
COMMANDS = [
    shlex.split(block.replace("\\\n", " "))
    for block in re.findall(
        r"^    (python train_val/compare_optimizers\.py (?:.*\\\n)*.*)$", TEXT, re.MULTILINE
    )
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[2])
def test_a_command_is_understood(command, tmp_path, monkeypatch):
    # Where the project's files are, and what the commands before this one would have trained.
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for name in set(re.findall(r"path=(ablations/\w+)", " ".join(command))):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(WEIGHTS, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    before = set(FLAGS)
    compare_optimizers.define_flags()
    try:
        assert FLAGS(command[1:]) == command[1:2]
        entrants = comparison.parse_all(FLAGS.optimizers, FLAGS.meta_ckpt)
        assert len(entrants) >= 3
        compare_optimizers.reported_steps(FLAGS.steps, FLAGS.every or max(1, FLAGS.steps // 20))
        if FLAGS.task:
            task_families.make(FLAGS.task, batch_size=8)
    finally:
        for name in set(FLAGS) - before:
            delattr(FLAGS, name)


def test_there_are_commands():
    assert len(COMMANDS) >= 5


def test_the_tables_are_those_that_were_printed():
    kept = sorted((ROOT / "docs" / "results").rglob("results.jsonl"))
    assert len(kept) >= 10
    for path in kept:
        printed = (path.parent / "comparison.md").read_text(encoding="utf-8")
        rows = [line for line in printed.splitlines() if line.startswith("|")]
        assert "\n".join(rows) in TEXT


def table_of(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("|")]


def test_the_kept_runs_of_digits_are_found(tmp_path, monkeypatch):
    (command,) = [c for c in COMMANDS if "--model_dir=docs/results/digits" in c]
    folder = ROOT / "docs" / "results" / "digits"
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    shutil.copy(folder / "runs.jsonl", tmp_path)
    monkeypatch.chdir(tmp_path)
    scoreboard = sys.modules["train_val.comparison.scoreboard"]
    monkeypatch.setattr(scoreboard, "run", lambda *_, **__: pytest.fail("ran"))
    monkeypatch.setattr(comparison, "measure_apart", lambda *_: pytest.fail("measured"))
    run(compare_optimizers, *command[2:], f"--model_dir={tmp_path}")
    assert table_of(tmp_path / "comparison.md") == table_of(folder / "comparison.md")
    assert (tmp_path / "runs.jsonl").read_bytes() == (folder / "runs.jsonl").read_bytes()


def test_the_kept_runs_of_the_convnet_are_found(monkeypatch):
    folder = ROOT / "docs" / "results" / "convnet_comparison"
    scoreboard = sys.modules["train_val.comparison.scoreboard"]
    monkeypatch.setattr(scoreboard, "run", lambda *_, **__: pytest.fail("ran"))
    scores = convnet_comparison.race(
        problem("convnet on cifar10 (original), batches of 128"),
        str(WEIGHTS.parent),
        folder / "runs.jsonl",
    )
    text = comparison.table(scores, convnet_comparison.REPORT)
    assert text.splitlines() == table_of(folder / "comparison.md")


@pytest.mark.data
def test_the_kept_runs_of_the_photographs_are_of_these(data_dir):
    """So that the command of docs/results.md finds them, and runs nothing again."""
    if not (data_dir / "imagenet-mini").is_dir():
        pytest.skip(f"no imagenet-mini in {data_dir}")
    arguments = {"name": "resnet", "data": "imagenet", "resnet_size": 18, "image_size": 64}
    arguments.update(data_dir=str(data_dir / "imagenet-mini"), batch_size=64, part="train")
    arguments.update(train_sample=1000, test_sample=1000)
    problem = task_families.problem_of(arguments)
    expected = {"problem": problem.task.name, "statistics": "population"}
    expected.update(compare_optimizers.cache_conditions(arguments, problem))
    assert expected["images"] == problem.image_fingerprint
    lines = (ROOT / "docs" / "results" / "resnet18" / "runs.jsonl").read_text(encoding="utf-8")
    assert lines
    for line in lines.splitlines():
        key = json.loads(line)["key"]
        assert {name: key.get(name) for name in expected} == expected
