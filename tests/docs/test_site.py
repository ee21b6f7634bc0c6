"""What the documentation site is made of; `scripts/build_site.sh` builds it, and checks links."""

import re
import sys

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("mkdocs")
sys.path.insert(0, str(ROOT / "scripts/site"))
import check_names  # noqa: E402
import hooks  # noqa: E402
import pages_of_code  # noqa: E402

sys.path.pop(0)


def test_anchors_are_those_of_github():
    assert hooks.github_anchor("Why Martens' method was lost", "-") == "why-martens-method-was-lost"
    assert hooks.github_anchor("A  b, c_d - e", "-") == "a--b-c_d---e"


def test_the_reference_has_every_package_and_name():
    pages = dict(pages_of_code.reference_pages(ROOT))
    listed = (ROOT / "tests/docs/public_surface.txt").read_text().splitlines()
    assert "custom_op.losses.MeanLoss" in listed and "mlhf.hypergrad.reverse" in listed
    assert "::: custom_op.losses.MeanLoss\n" in pages["reference/custom_op.losses.md"]
    assert "::: mlhf.hypergrad.reverse\n" in pages["reference/mlhf.hypergrad.md"]
    # A package inside is linked and not repeated; a method belongs to its class.
    assert "::: custom_op.losses\n" not in pages["reference/custom_op.md"]
    assert not any("::: mlhf.HessianFree.step" in page for page in pages.values())


def test_a_name_without_a_place_is_missed(tmp_path):
    known = pages_of_code.packages(ROOT)
    overview = "".join(f'<a href="{p}/#{p}.{n}">' for p in known for n in known[p])
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference/index.html").write_text(overview)
    for package, names in known.items():
        folder = tmp_path / "reference" / package
        folder.mkdir()
        places = "".join(f'<h2 id="{package}.{n}"><a href="#{package}.{n}">' for n in names)
        (folder / "index.html").write_text(places)
    assert check_names.missing(tmp_path) == []
    page = tmp_path / "reference/mlhf/index.html"
    page.write_text(page.read_text().replace('id="mlhf.KFAC"', ""))
    assert check_names.missing(tmp_path) == ["mlhf.KFAC"]


def test_every_optimizer_has_a_page_that_says_the_same_things():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = sorted((ROOT / "docs/optimizers").glob("*.md"))
    table = (ROOT / "docs/optimizers.md").read_text().partition("| class, and its page |")[2]
    table = table.partition("\n\n")[0]
    classes = set(re.findall(r"^\| \[`(mlhf\.\w+)`\]", table, re.MULTILINE))
    assert len(classes) == len(pages) >= 12
    described = set()
    for page in pages:
        text = page.read_text()
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings == ["What it does", "Settings", "What it costs", "Where it fails", "Papers"]
        assert text.count("$$") >= 2 and text.count("$$") % 2 == 0
        assert f"optimizers/{page.name}" in navigation
        described.add(re.search(r"`(mlhf\.\w+)`", text)[1])
    assert described == classes


def test_the_address_is_the_same_everywhere():
    (address,) = re.findall(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert f"repo_url: {address}\n" in (ROOT / "mkdocs.yml").read_text()
    assert f"repository-code: {address}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_citation_has_the_version():
    import mlhf

    assert f"version: {mlhf.__version__}\n" in (ROOT / "CITATION.cff").read_text()
