"""`import mlhf` loads nothing that is not used, and says the same as its type checkers read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mlhf


def imports_for_type_checkers():
    tree = ast.parse(Path(mlhf.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_names_are_loaded_from_where_type_checkers_look():
    expected = imports_for_type_checkers()
    assert {name: f"mlhf.{home}" for name, home in mlhf._HOMES.items()} == expected
    assert set(mlhf.__all__) == set(expected)


def test_all_names_are_there():
    for name in mlhf.__all__:
        assert getattr(mlhf, name) is not None
    assert set(mlhf.__all__) <= set(dir(mlhf))


def test_a_module_inside_is_an_attribute_and_what_is_nowhere_is_an_error():
    assert mlhf.hypergrad.reverse
    with pytest.raises(AttributeError, match="'mlhf' has no attribute 'HesianFree'"):
        _ = mlhf.HesianFree


def test_replay_is_on_numpy_alone():
    code = (
        "import sys; from mlhf import replay; import mlhf; mlhf.__version__;"
        "assert replay.PrioritizedReplay;"
        "sys.exit(bool({'tensorflow', 'keras', 'mlhf.task'} & set(sys.modules)))"
    )
    root = Path(mlhf.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
