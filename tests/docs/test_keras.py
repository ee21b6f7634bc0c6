"""The page on Keras: its program runs."""

import keras

from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch):
    found = pages.run("docs/keras.md", tmp_path, monkeypatch)
    assert isinstance(found["model"].optimizer, keras.optimizers.Adam)
    assert (tmp_path / "classifier.keras").exists()
