"""The lists of what is installed: pinned, hashed, of one version each, and complete."""

import re
import sys

import pytest

from tests.project import ROOT

FOLDER = ROOT / "requirements"
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?$")

sys.path.insert(0, str(ROOT / "scripts"))
from lock_requirements import entries, pins  # noqa: E402

sys.path.pop(0)


@pytest.mark.parametrize("name", ["build", "run", "test", "benchmark"])
def test_each_version_has_hashes_and_nothing_else_is_taken(name):
    text = (FOLDER / f"{name}.txt").read_text()
    assert not re.search(r"https?:|--index|--find-links|--trusted", text)
    found = [entry for entry in entries(text) if re.match(r"[a-z]", entry)]
    assert found
    for entry in found:
        first, *hashes = entry.rstrip().splitlines()
        assert re.match(r"[a-z0-9.-]+==[^ ;*]+( ; .+)? \\$", first), first
        assert hashes and all(HASH.match(line) for line in hashes), first
    if name != "benchmark":  # the GPU's packages follow from torch
        for package, versions in pins(text).items():
            assert versions <= pins((FOLDER / "constraints.txt").read_text())[package], package


@pytest.mark.parametrize("kind", ["run", "test", "benchmark"])
def test_what_the_package_asks_for_is_in_its_list(kind):
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = list(project["dependencies"])
    listed = pins((FOLDER / "run.txt").read_text())
    if kind != "run":
        text = (FOLDER / f"{kind}.txt").read_text()
        assert text.splitlines()[1] == "--requirement run.txt"
        asked += project["optional-dependencies"][kind]
        listed |= pins(text)
    names = {re.match(r"[A-Za-z0-9._-]+", line)[0] for line in asked}
    assert names <= set(listed), names - set(listed)
    # No pin is left over, which nothing would renew.
    everything = set().union(*(pins(path.read_text()) for path in FOLDER.glob("*.txt")))
    locked = set().union(
        *(pins((FOLDER / f"{n}.txt").read_text()) for n in ("build", "run", "test", "benchmark"))
    )
    assert everything == locked


def test_the_scripts_install_by_hash_only():
    script = (ROOT / "scripts" / "common.sh").read_text()
    calls = re.findall(r"^ +run_pip .*$", script, re.MULTILINE)
    assert len(calls) == 3
    assert all("--require-hashes" in call for call in calls[:2])
    assert "--no-deps" in calls[2] and "--no-build-isolation" in calls[2]
