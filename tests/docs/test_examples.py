"""The example programs: each asserts its own numbers, with quick settings here."""

import runpy
import sys
import xml.etree.ElementTree as ET

import pytest

from tests.docs import pages

EXAMPLES = pages.ROOT / "docs" / "examples"


def _run(monkeypatch, name, *flags):
    monkeypatch.setattr(sys, "argv", [name, *flags])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_scalar_graph(tmp_path, monkeypatch, capsys):
    _run(monkeypatch, "scalar_graph.py", f"--output_dir={tmp_path}")
    printed = capsys.readouterr().out
    assert "415.4288" in printed and "407.4288" in printed
    for name in ("z.svg", "slopes_of_z.svg"):
        ET.parse(tmp_path / name)


def test_tanh_derivatives(tmp_path, monkeypatch):
    _run(monkeypatch, "tanh_derivatives.py", f"--output={tmp_path / 'tanh.png'}")
    assert (tmp_path / "tanh.png").read_bytes().startswith(b"\x89PNG")


def test_mlp_on_digits(tmp_path, monkeypatch, capsys):
    _run(monkeypatch, "mnist_mlp.py", f"--data_dir={tmp_path}")
    assert "epoch 20" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.data
def test_mlp_on_mnist(data_dir, monkeypatch, capsys):
    if not (data_dir / "mnist").is_dir():
        pytest.skip(f"no mnist/ in {data_dir}")
    _run(monkeypatch, "mnist_mlp.py", f"--data_dir={data_dir}")
    assert "epoch 5" in capsys.readouterr().out


def test_character_rnn_begins_to_learn():
    example = runpy.run_path(str(EXAMPLES / "character_rnn.py"))
    losses, along, written = example["run"](60, EXAMPLES / "sonnets.txt", every=0)
    assert 3.5 < losses[0] < 4.3
    assert sum(losses[-10:]) / 10 < 2.7
    assert along > 0
    assert len(written) == 200


@pytest.mark.slow
def test_a_classifier_in_keras(monkeypatch, capsys):
    _run(monkeypatch, "keras_classifier.py", "--seconds=1", "--rates=0.01")
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert len(rows) == 7 and all("%" in row for row in rows[2:])


@pytest.mark.slow
def test_character_rnn(monkeypatch):
    _run(monkeypatch, "character_rnn.py")


GALLERY = {
    "keras_fit": "Hessian-free: loss",
    "learned_training_set": "test accuracy",
    "poisson": "relative error",
}
SLOW_GALLERY = {
    "compare_optimizers": "K-FAC",
    "layer_rates": "by reverse mode",
    "meta_train": "before meta-training",
    "pretrained": "MLHF: loss",
    "spectrum": "largest eigenvalues",
    "transformer": "Muon: loss",
}


@pytest.mark.parametrize(
    "name",
    [*GALLERY, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_GALLERY)],
)
def test_the_gallery(tmp_path, monkeypatch, capsys, name):
    _run(monkeypatch, f"{name}.py", f"--output={tmp_path / 'picture.png'}")
    assert (GALLERY | SLOW_GALLERY)[name] in capsys.readouterr().out
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_gallery_shows_its_pictures():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name in (*GALLERY, *SLOW_GALLERY):
        assert f"](../images/examples/{name}.png)" in text
        assert (pages.ROOT / f"docs/images/examples/{name}.png").exists()


def test_the_list_of_examples_is_complete():
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    programs = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert len(programs) == 5 + len(GALLERY) + len(SLOW_GALLERY)
    assert all(f"`{name}`" in listed for name in programs)
