"""Every public name stands in a page."""

import importlib
import re

import pytest

from tests.docs.pages import ROOT

PACKAGES = (
    "custom_op",
    "custom_op.losses",
    "mlhf",
    "mlhf.derivatives",
    "mlhf.distribute",
    "mlhf.hypergrad",
    "mlhf.hypergrad.linear_solvers",
    "replay",
    "train_val.task_families",
)


def words(*paths):
    """The identifiers in pages: in code spans and blocks, where names are names and not words."""
    found = set()
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for code in re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL):
            found |= set(re.findall(r"\w+", code))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_stands_in_a_page(package):
    module = importlib.import_module(package)
    known = words(ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    assert module.__all__
    assert not sorted(set(module.__all__) - known)


def test_a_word_outside_code_is_no_name(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("A Step and `mlhf.L2(1)`.\n\n```python\nx = Task()\n```\n")
    found = words(path)
    assert {"mlhf", "L2", "Task"} <= found and "Step" not in found
