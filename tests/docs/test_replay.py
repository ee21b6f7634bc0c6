from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    found = pages.run("docs/replay.md", tmp_path, monkeypatch)
    assert len(found["sample"]) == 2
    assert "damaged.npz" in capsys.readouterr().out
    assert (tmp_path / "experience" / "notes.txt").read_text() == "done\n"
