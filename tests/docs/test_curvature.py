"""The page on curvature: its blocks run, and each asserts its own numbers."""

import re

import custom_op
from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch):
    pages.run("docs/curvature.md", tmp_path, monkeypatch)
    assert (tmp_path / "density.png").stat().st_size > 10000


def test_the_page_names_every_loss():
    text = (pages.ROOT / "docs/curvature.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert set(custom_op.losses.names()) <= set(table)
