"""The packages stay as CONTRIBUTING.md draws them: folders, files, functions, arrows.

A function is as long as its lines without its docstring.
"""

import ast
import importlib.util

import pytest

from tests.project import ROOT

_spec = importlib.util.spec_from_file_location(
    "import_structure", ROOT / "scripts" / "import_structure.py"
)
structure = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(structure)

LARGEST_FOLDER, LONGEST_FILE, LONGEST_FUNCTION = 16, 400, 80
# In mlhf, 4 of them are those of distribute and 5 those of keras, which stand on top.
MOST_ARROWS = {"custom_op": 45, "mlhf": 49, "mlhf.hypergrad": 45}


def test_nothing_imports_in_a_circle():
    assert structure.circles(structure.edges()) == []


def test_a_circle_is_found():
    assert structure.circles({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}) == [["a", "b", "c"]]


def test_folders_are_small():
    loose = structure.folders(structure.modules())
    too_large = {f: n for f, n in loose.items() if n > LARGEST_FOLDER and f != "custom_op.rules"}
    assert too_large == {}


@pytest.mark.parametrize("folder", MOST_ARROWS)
def test_neighbours_are_few(folder):
    drawn = {frozenset(pair) for pair in structure.arrows(folder, structure.edges())}
    assert 0 < len(drawn) <= MOST_ARROWS[folder]


def test_packages_import_downwards_only():
    below = {
        "custom_op": set(),
        "replay": set(),
        "mlhf": {"custom_op", "replay"},
        "train_val": {"custom_op", "mlhf", "replay"},
    }
    upwards = [
        (a, b)
        for a, b in structure.edges()
        if (from_ := a.split(".")[0]) != (to := b.split(".")[0]) and to not in below[from_]
    ]
    assert upwards == []


def test_files_and_functions_are_short():
    found = []
    for name, path in structure.modules().items():
        source = path.read_text()
        length = source.count("\n")
        if length > LONGEST_FILE:
            found.append(f"{name}: {length} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node, clean=False) is not None:
                    text = node.body[0]
                    lines -= text.end_lineno - text.lineno + 1
                if lines > LONGEST_FUNCTION:
                    found.append(f"{name}.{node.name}: {lines} lines")
    assert found == []
