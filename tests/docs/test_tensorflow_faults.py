"""The page on TensorFlow's faults: its blocks run, and each asserts what it shows."""

from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch):
    pages.run("docs/tensorflow_faults.md", tmp_path, monkeypatch)
