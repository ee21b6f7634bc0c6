"""docs/results.md: its commands are understood, and its tables are those of its folders."""

import re
import shlex
import shutil

import pytest
from absl import flags

from tests.docs.pages import ROOT
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
    folders = re.findall(r"\]\((results/[\w/]+)/comparison\.html\)", TEXT)
    assert folders
    for folder in folders:
        printed = (ROOT / "docs" / folder / "comparison.md").read_text(encoding="utf-8")
        rows = [line for line in printed.splitlines() if line.startswith("|")]
        assert "\n".join(rows) in TEXT
