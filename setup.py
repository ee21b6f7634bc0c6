"""Builds the wheel, which holds the folders beside `mlhf` inside it; pyproject.toml has the rest.

A clone has `custom_op`, `replay` and `train_val` at its top, under names so general that other
projects install packages called the same. In the wheel they are `mlhf.custom_op`, `mlhf.replay` and
`mlhf.train_val`, and imports of them say so: `from replay.numbers import x` becomes
`from mlhf.replay.numbers import x`. No line is added or taken out, so that the lines of a traceback
are those of the source. An editable install is the clone as it stands.
"""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

MOVED = ("custom_op", "replay", "train_val")
_DOTTED = re.compile(rf"({'|'.join(MOVED)})(\.\w+)+")
# A link or picture of a page, but to another host or within the page.
_RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def rename_imports(source: str, name: str = "<source>") -> str:
    """Returns a module's text with imports of the moved folders as they are in the wheel.

    Args:
      source: The text.
      name: The file, for errors.

    Raises:
      ValueError: If an import or a dotted name in a string is of a form that cannot be renamed in
        its line.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_moved(node.module or ""):
            _replace(lines, node, r"from\s+", "from mlhf.")
        elif isinstance(node, ast.Import) and any(_is_moved(alias.name) for alias in node.names):
            alias = node.names[0]
            if len(node.names) > 1 or ("." in alias.name and alias.asname is None):
                raise ValueError(
                    f"Expected one folder or module per import in {name}, line {node.lineno}, got "
                    f"{ast.unparse(node)!r}: write `from {alias.name} import ...` or `import "
                    f"{alias.name} as ...`."
                )
            as_module = alias.asname is not None and alias.asname != alias.name
            new = "import mlhf." if as_module else "from mlhf import "
            _replace(lines, node, r"import\s+", new)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _DOTTED.fullmatch(node.value):
                raise ValueError(
                    f"Expected no module's name in a string of {name}, line {node.lineno}, got "
                    f"{node.value!r}, which is another in the wheel: make it from __name__."
                )
    return "".join(lines)


def _is_moved(module: str) -> bool:
    return module.partition(".")[0] in MOVED


def _replace(lines: list[str], node: ast.stmt, old: str, new: str) -> None:
    # Columns of the tree count bytes.
    line = lines[node.lineno - 1].encode()
    before, after = (part.decode() for part in (line[: node.col_offset], line[node.col_offset :]))
    lines[node.lineno - 1] = before + re.sub(f"^{old}", new, after)


class BuildRenamed(build_py):
    """Copies modules into the wheel, with the imports of the moved folders renamed."""

    def run(self) -> None:
        """Builds from nothing: what an earlier build left would be packed too."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

    def build_module(self, module, module_file, package):  # type: ignore[no-untyped-def]
        """Copies a module and renames its imports."""
        target, copied = super().build_module(module, module_file, package)
        path = Path(target)
        source = path.read_text(encoding="utf-8")
        path.write_text(rename_imports(source, module_file), encoding="utf-8")
        return target, copied


class EditableClone(editable_wheel):
    """Puts the clone's folder on the path, where the folders keep their names."""

    def run(self) -> None:
        """Writes one line into a .pth file."""
        self.distribution.packages = clone_packages()
        # The explicit root makes that line; a package that is added later is found by it.
        self.distribution.package_dir = {"": "."}
        super().run()


def clone_packages() -> list[str]:
    """Returns the packages by their names in a clone."""
    patterns = [pattern for top in ("mlhf", *MOVED) for pattern in (top, f"{top}.*")]
    # The last one holds weights and no module.
    return [*find_packages(include=patterns), "mlhf.pretrained"]


def wheel_packages() -> dict[str, str]:
    """Returns the folders of the packages by their names in the wheel."""
    return {
        f"mlhf.{name}" if _is_moved(name) else name: name.replace(".", "/")
        for name in clone_packages()
    }


def readme() -> str:
    """Returns the README with links to the repository, as the package's page needs them."""
    root = Path(__file__).parent
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    address = re.search(r'^Repository = "(.+)"$', project, re.MULTILINE)[1]  # type: ignore[index]

    def absolute(link: re.Match[str]) -> str:
        picture, text, target = link.groups()
        return f"{picture}[{text}]({address}/{'raw' if picture else 'blob'}/main/{target})"

    return _RELATIVE.sub(absolute, (root / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    folders = wheel_packages()
    setup(
        long_description=readme(),
        long_description_content_type="text/markdown",
        packages=list(folders),
        package_dir=folders,
        cmdclass={"build_py": BuildRenamed, "editable_wheel": EditableClone},
    )
