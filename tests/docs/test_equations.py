"""The page on equations: its blocks run, and each asserts its own numbers."""

from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch):
    pages.run("docs/equations.md", tmp_path, monkeypatch)
