"""The README: its Python blocks run, and its links lead somewhere."""

import re

import numpy as np

import mlhf
from mlhf.train_val.task_families import registry
from tests.docs import pages


def test_python_blocks_run(tmp_path, monkeypatch):
    meta_train = mlhf.meta_train

    def two_steps(task, optimizer, steps, **settings):
        if steps == 1:  # of the smoke test
            return meta_train(task, optimizer, steps, **settings)
        assert steps == 300
        return meta_train(task, optimizer, 2, roll_back=2, progress=False, **settings)

    monkeypatch.setattr(mlhf, "meta_train", two_steps)
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    found = pages.run("README.md", tmp_path, monkeypatch)
    assert float(found["metrics"]["loss"]) < 0.3
    logits = found["model"](found["images"])
    assert np.mean(np.argmax(logits, -1) == found["labels"]) > 0.9
    assert found["optimizer"].kinds == ["dense_bias", "dense_kernel"]
    assert len(found["result"].history) == 2
    assert (tmp_path / "learned.npz").exists()
    assert "funnel" in registry._FAMILIES
    np.testing.assert_allclose(
        np.sum(found["product"] * found["v"]),
        _square_in_curvature(found["linear"].outputs, found["tangents"]),
        rtol=1e-4,
    )


def _square_in_curvature(outputs, tangents):
    """<v, G v> for a softmax: the mean over rows of the tangents' variance under softmax(z)."""
    z, t = np.asarray(outputs, np.float64), np.asarray(tangents, np.float64)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return np.mean((p * t**2).sum(-1) - (p * t).sum(-1) ** 2)


def test_links_lead_somewhere():
    text = (pages.ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    assert links
    assert not [link for link in links if not leads_somewhere(link)]


def leads_somewhere(link):
    """Whether there is such a file, with such a heading if one is named."""
    name, sign, heading = link.partition("#")
    path = pages.ROOT / name
    if not path.exists() or not sign:
        return path.exists()
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    # As GitHub makes anchors of headings.
    return heading in [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in found]


def test_a_link_to_no_heading_is_noticed():
    assert leads_somewhere("docs/results.md#digits")
    assert not leads_somewhere("docs/results.md#digitss")
    assert not leads_somewhere("docs/no_such_page.md")
