"""The page on extending: its blocks run, and each asserts its own numbers."""

from custom_op import registry
from custom_op.losses import registry as known_losses
from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch):
    before = set(registry._RULES), set(known_losses._LOSSES)
    with monkeypatch.context() as context:
        pages.run("docs/extending.md", tmp_path, context)
        assert "Dawsn" in registry._RULES and "waiting_time" in known_losses._LOSSES
    assert (set(registry._RULES), set(known_losses._LOSSES)) == before
