"""The page on several devices and machines: its block runs."""

from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch):
    pages.run("docs/distribution.md", tmp_path, monkeypatch)
