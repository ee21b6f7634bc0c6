import ast
import pathlib
import sys

import replay


def test_replay_imports_numpy_and_nothing_of_the_project():
    for path in pathlib.Path(replay.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module]
            for name in names:
                package = name.split(".")[0]
                assert package in {"replay", "numpy"} | sys.stdlib_module_names, (path, name)
