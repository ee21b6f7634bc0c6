"""The page on hypergradients: its blocks run, and its commands are flags that there are."""

import re
import shlex

from absl import flags

from mlhf.hypergrad.methods import METHODS
from tests.docs import pages
from train_val import tune_hyperparameters

PAGE = "docs/hypergradients.md"


def test_python_blocks_run(tmp_path, monkeypatch):
    pages.run(PAGE, tmp_path, monkeypatch)
    for name in ("curves", "schedule"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_the_commands_are_read():
    text = (pages.ROOT / PAGE).read_text(encoding="utf-8").replace("\\\n", "")
    found = re.findall(r"^    python train_val/tune_hyperparameters\.py (.*)$", text, re.MULTILINE)
    assert len(found) == 2
    own = flags.FlagValues()
    before = set(flags.FLAGS)
    tune_hyperparameters.define_flags()
    try:
        for name in set(flags.FLAGS) - before:
            own[name] = flags.FLAGS[name]
        for command in found:
            assert own(["tune_hyperparameters", *shlex.split(command)])[1:] == []
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


def test_the_page_names_every_method():
    text = (pages.ROOT / PAGE).read_text(encoding="utf-8")
    assert all(f"| `{method}" in text for method in METHODS)
