"""Prints the structure of the imports: modules and arrows of each folder, and circles.

    python scripts/import_structure.py [--list FOLDER]

An arrow is a pair of neighbors (folders or modules of one folder) of which one imports the other;
imports by an `__init__` do not count. A circle is a set of modules that import each other, directly
or indirectly.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("custom_op", "mlhf", "replay", "train_val")


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Returns the files of all modules by their dotted names; a package's is its `__init__`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yields the modules of the project that a module imports, anywhere in its text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            targets = [
                full if (full := f"{node.module}.{alias.name}") in known else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (target for target in targets if target in known and target != name)


def edges(root: Path = ROOT) -> set[tuple[str, str]]:
    """Returns pairs (importing, imported) for all modules except `__init__`."""
    known = modules(root)
    return {
        (name, target)
        for name, path in known.items()
        if path.name != "__init__.py"
        for target in imports(name, path, known)
    }


def arrows(folder: str, found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Returns the pairs of neighbors in a folder of which the first imports the second."""
    depth = folder.count(".") + 1

    def neighbour(module: str) -> str | None:
        parts = module.split(".")
        return parts[depth] if module.startswith(folder + ".") else None

    pairs = {(neighbour(a), neighbour(b)) for a, b in found}
    return {(a, b) for a, b in pairs if a is not None and b is not None and a != b}


def circles(found: set[tuple[str, str]]) -> list[list[str]]:
    """Returns the sets of modules that reach each other (Tarjan 1972)."""
    following: dict[str, list[str]] = {}
    for a, b in found:
        following.setdefault(a, []).append(b)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    parts: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in following.get(module, []):
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            place = stack.index(module)
            parts.append(sorted(stack[place:]))
            del stack[place:]

    for module in sorted(following):
        if module not in index:
            visit(module)
    return [part for part in parts if len(part) > 1]


def folders(known: dict[str, Path]) -> dict[str, int]:
    """Returns the number of modules directly in each folder."""
    loose: dict[str, int] = {}
    for name, path in known.items():
        folder = name if path.name == "__init__.py" else name.rpartition(".")[0]
        loose[folder] = loose.get(folder, 0) + (path.name != "__init__.py")
    return loose


def main() -> None:
    """Prints a line for each folder, and the circles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", metavar="FOLDER", help="print a folder's arrows, such as mlhf")
    flags = parser.parse_args()
    found = edges()
    if flags.list:
        print("\n".join(f"{a} -> {b}" for a, b in sorted(arrows(flags.list, found))))
        return
    for folder, count in sorted(folders(modules()).items()):
        drawn = {frozenset(pair) for pair in arrows(folder, found)}
        print(f"{folder:32} {count:3} modules {len(drawn):4} arrows")
    for circle in circles(found):
        print("circle:", ", ".join(circle))


if __name__ == "__main__":
    main()
