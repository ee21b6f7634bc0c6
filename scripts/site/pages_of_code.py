"""Pages of the site that are made of code: the reference, the examples, the notebooks."""

from __future__ import annotations

import ast
import base64
import functools
import json
from pathlib import Path
from typing import Any

SURFACE = "tests/docs/public_surface.txt"
INSIDE = ("custom_op", "replay", "train_val")


@functools.cache
def packages(root: Path) -> dict[str, list[str]]:
    """Returns the exported names of each package that has any."""
    found: dict[str, list[str]] = {}
    lines = (root / SURFACE).read_text(encoding="utf-8").splitlines()
    dotted = [line for line in lines if not set(line) & set("( /")]
    for line in dotted:
        package, _, name = line.rpartition(".")
        # Attributes of a class belong to the class.
        if package and not package.rpartition(".")[2][0].isupper():
            found.setdefault(package, []).append(name)
    return {p: n for p, n in found.items() if (root / p.replace(".", "/")).is_dir()}


def reference_pages(root: Path) -> list[tuple[str, str]]:
    """Returns the path and text of each page of the reference, an overview first."""
    known = packages(root)
    overview = ["# Reference", "", "Every name that the packages export, by package.", ""]
    pages = []
    for package, names in known.items():
        path = f"reference/{package}.md"
        overview += [f"## {package}", "", _summary(root, package), ""]
        overview += [", ".join(f"[`{name}`]({package}.md#{package}.{name})" for name in names), ""]
        lines = [f"# {package}", "", _summary(root, package), ""]
        if package.partition(".")[0] in INSIDE:
            first, _, rest = package.rpartition(".")
            where = f"mlhf.{first}" if first else "mlhf"
            lines += [f"Import it by `from {where} import {rest}`.", ""]
        for name in names:
            full = f"{package}.{name}"
            if full in known:
                lines += [f'## {name} {{: id="{full}"}}', ""]
                lines += [f"A package of its own: [{full}]({full}.md).", ""]
            else:
                lines += [f"::: {full}", ""]
        pages.append((path, "\n".join(lines)))
    return [("reference/index.md", "\n".join(overview)), *pages]


def _summary(root: Path, package: str) -> str:
    source = root / package.replace(".", "/") / "__init__.py"
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""


@functools.cache
def example_pages(root: Path) -> list[tuple[str, str]]:
    """Returns a page for each example: what it says of itself, its picture, its code."""
    pages = []
    for path in sorted((root / "docs/examples").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        first, _, rest = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
        lines = [f"# {first.rstrip('.')}", "", rest.strip(), ""]
        picture = root / "docs/images/examples" / f"{path.stem}.png"
        if picture.exists():
            lines += [f"![What {path.name} draws](../images/examples/{picture.name})", ""]
        lines += [f"`docs/examples/{path.name}`:", "", "```python", source.rstrip(), "```", ""]
        pages.append((f"examples/{path.stem}.md", "\n".join(lines)))
    return pages


@functools.cache
def notebook_pages(root: Path) -> list[tuple[str, str]]:
    """Returns a page for each notebook, with the outputs that are stored in it."""
    pages = []
    for path in sorted((root / "docs/notebooks").glob("*.ipynb")):
        lines: list[str] = []
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                lines += [text, ""]
                continue
            lines += ["```python", text, "```", ""]
            for output in cell["outputs"]:
                lines += _output(output)
        pages.append((f"notebooks/{path.stem}.md", "\n".join(lines)))
    return pages


def _output(output: dict[str, Any]) -> list[str]:
    data = output.get("data", {})
    if "image/png" in data:
        # In one line, or Markdown would end the picture there.
        picture = base64.b64encode(base64.b64decode("".join(data["image/png"]))).decode()
        alt = "The picture that the cell draws"
        return [f'<img alt="{alt}" src="data:image/png;base64,{picture}">', ""]
    text = "".join(output.get("text", data.get("text/plain", "")))
    return ["```text", text.rstrip(), "```", ""] if text.strip() else []
