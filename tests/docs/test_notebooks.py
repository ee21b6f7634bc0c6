"""The notebooks run from top to bottom, and what is stored in them is what they print."""

import ast
import json

import matplotlib.pyplot as plt
import pytest

from tests.docs.pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def text(cell):
    printed = [output for output in cell["outputs"] if output["output_type"] == "stream"]
    return "".join("".join(output["text"]) for output in printed)


def words(printed):
    """The words of an output without its numbers, whose digits depend on the processor."""
    return [word for word in printed.split() if not any(sign.isdigit() for sign in word)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, monkeypatch, capsys):
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    namespace = {"__name__": path.stem}
    for number, cell in enumerate(code_cells(path), 1):
        assert cell["execution_count"] == number
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), namespace)
        assert words(capsys.readouterr().out) == words(text(cell)), f"cell {number}: run it again"


def test_there_are_notebooks_with_pictures_and_checks():
    assert len(NOTEBOOKS) >= 2
    for path in NOTEBOOKS:
        cells = code_cells(path)
        kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
        assert {"stream", "display_data"} <= kinds
        trees = [ast.parse("".join(cell["source"])) for cell in cells]
        assert any(isinstance(node, ast.Assert) for tree in trees for node in ast.walk(tree))
