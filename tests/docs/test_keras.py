"""The page on Keras: its program runs."""

from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch):
    found = pages.run("docs/keras.md", tmp_path, monkeypatch)
    assert found["model"].optimizer.name == "adam"
    assert (tmp_path / "classifier.keras").exists()
