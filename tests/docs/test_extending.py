"""The page on extending: its blocks run, and each asserts its own numbers."""

from custom_op import losses, registry
from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch):
    before = set(registry._RULES), set(losses._LOSSES)
    with monkeypatch.context() as context:
        pages.run("docs/extending.md", tmp_path, context)
        assert "Sinh" in registry._RULES and "poisson" in losses._LOSSES
    assert (set(registry._RULES), set(losses._LOSSES)) == before
