from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch):
    found = pages.run("docs/optimizers.md", tmp_path, monkeypatch)
    # Guessing one of two classes is 0.69.
    assert len(found["losses"]) == 8
    assert all(loss < 0.6 for loss in found["losses"].values()), found["losses"]
