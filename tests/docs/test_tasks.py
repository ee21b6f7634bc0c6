"""docs/tasks.md: its blocks run, and its test passes."""

import pytest

from tests.docs import pages
from train_val.task_families import registry


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    found = pages.run("docs/tasks.md", tmp_path, monkeypatch)
    found["test_bottleneck"]()
    assert found["optimizer"].kinds == ["dense_bias", "dense_kernel"]
