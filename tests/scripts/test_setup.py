"""The wheel: folders that move into `mlhf`, imports that follow them, the readme's links."""

import ast
import importlib.util
import re
import subprocess
import sys
import zipfile

import pytest

from tests.project import ROOT

_spec = importlib.util.spec_from_file_location("mlhf_setup", ROOT / "setup.py")
setup = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(setup)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import custom_op", "from mlhf import custom_op"),
        ("import custom_op as custom_op", "from mlhf import custom_op as custom_op"),
        ("import custom_op as c", "import mlhf.custom_op as c"),
        ("import replay.numbers as n", "import mlhf.replay.numbers as n"),
        ("from replay import Sample", "from mlhf.replay import Sample"),
        (
            "from train_val.data import (\n    load,\n)",
            "from mlhf.train_val.data import (\n    load,\n)",
        ),
        ("if x:\n    import custom_op  # why", "if x:\n    from mlhf import custom_op  # why"),
        ("é = 1; from replay import a", "é = 1; from mlhf.replay import a"),
        ("import os, sys", "import os, sys"),
        ("from . import replay", "from . import replay"),
        ("from replays import replay", "from replays import replay"),
        ("import mlhf.replay", "import mlhf.replay"),
        ("x = 'import replay'", "x = 'import replay'"),
    ],
)
def test_imports_are_renamed(before, after):
    assert setup.rename_imports(before) == after
    assert setup.rename_imports(after) == after


@pytest.mark.parametrize(
    "text", ["import os, replay", "import custom_op.losses", "import_module('train_val.data.x')"]
)
def test_what_cannot_be_renamed_is_refused(text):
    with pytest.raises(ValueError, match="line 1"):
        setup.rename_imports(text, "a.py")


IMPORT = re.compile("from mlhf import")


def top_level_imports(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([sys.executable, *command, str(folder), "."], cwd=ROOT, check=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_one_top_level_name(wheel):
    assert {name.partition("/")[0] for name in wheel if ".dist-info" not in name} == {"mlhf"}
    (said,) = (text for name, text in wheel.items() if name.endswith("top_level.txt"))
    assert said.split() == [b"mlhf"]


def test_the_wheel_has_each_module_line_for_line(wheel):
    sources = {
        path.relative_to(ROOT): path.read_text(encoding="utf-8")
        for top in ("mlhf", *setup.MOVED)
        for path in (ROOT / top).rglob("*.py")
    }
    packed = {name for name in wheel if name.endswith(".py")}
    assert len(packed) == len(sources) > 300
    for path, source in sources.items():
        name = path.as_posix() if path.parts[0] == "mlhf" else f"mlhf/{path.as_posix()}"
        built = wheel[name].decode()
        assert not set(top_level_imports(built)) & set(setup.MOVED), name
        for old, new in zip(source.splitlines(), built.splitlines(), strict=True):
            assert (
                old == new or new.replace("mlhf.", "", 1) == old or IMPORT.sub("import", new) == old
            )


def test_the_wheel_has_what_is_no_module(wheel):
    assert "mlhf/pretrained/convnet.npz" in wheel
    for package in ("mlhf", *(f"mlhf/{name}" for name in setup.MOVED)):
        assert f"{package}/py.typed" in wheel


def test_the_packages_page_has_absolute_links(wheel):
    (text,) = (text.decode() for name, text in wheel.items() if name.endswith("METADATA"))
    assert "![Training loss on CIFAR-10](https://" in text
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", text) == []
    project = (ROOT / "pyproject.toml").read_text()
    (address,) = re.findall(r'^Repository = "(.+)"$', project, re.MULTILINE)
    assert f"({address}/blob/main/docs/results.md#digits)" in text
    assert f"({address}/raw/main/docs/images/quickstart.png)" in text
