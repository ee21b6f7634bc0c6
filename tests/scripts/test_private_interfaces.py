"""Private interfaces of TensorFlow, Keras and others are used in one module per package.

`custom_op/tensorflow_internals.py` and `mlhf/keras_internals.py` are those, each with a test of its
name that tells what to do when a new version lacks something.
"""

import ast

from tests.project import ROOT

PACKAGES = ("custom_op", "mlhf", "replay", "train_val")
ALLOWED = {"custom_op/tensorflow_internals.py", "mlhf/keras_internals.py"}
# Documented, underscore or not: named tuples, and leaving a process at once.
DOCUMENTED = {"_replace", "_asdict", "_fields", "_field_defaults", "_exit"}
MODULES = ("tensorflow.python", "keras.src")


def _is_private(name):
    return name.startswith("_") and not name.startswith("__") or name == "__internal__"


def private_names(tree):
    """Yields (line, name, receiver) of attributes with private names, also those given as text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            yield node.lineno, node.attr, ast.unparse(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            *("getattr", "hasattr", "setattr", "delattr"),
        ):
            name = node.args[1]
            if isinstance(name, ast.Constant) and _is_private(name.value):
                yield node.lineno, name.value, ast.unparse(node.args[0])


def own_names(tree):
    """Returns the private names that a module gives to its own objects."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    names.add(part.name)
                targets = part.targets if isinstance(part, ast.Assign) else []
                targets = [part.target] if isinstance(part, ast.AnnAssign) else targets
                names.update(target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def findings(sources):
    """Returns (path, line, name) of the private names that are not the sources' own.

    Args:
      sources: The modules' texts by path.
    """
    trees = {path: ast.parse(text) for path, text in sources.items()}
    own = set().union(*(own_names(tree) for tree in trees.values()))
    found = []
    for path, tree in trees.items():
        for line, name, receiver in private_names(tree):
            if receiver not in ("self", "cls", "super()") and name not in own | DOCUMENTED:
                found.append((path, line, name))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [alias.name for alias in node.names]
                modules.append(getattr(node, "module", None) or "")
                found += [(path, node.lineno, m) for m in modules if m.startswith(MODULES)]
    return sorted(found)


def test_private_interfaces_are_used_in_one_module_per_package():
    sources = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    found = findings(sources)
    assert [entry for entry in found if entry[0] not in ALLOWED] == []
    assert {path for path, _, _ in found} == ALLOWED


def test_private_interfaces_are_found():
    text = (
        "from tensorflow.python.framework import ops\n"
        "import keras.src.layers\n"
        "model._flatten_layers()\n"
        "getattr(layer, '_remat_mode', None)\n"
        "tf.__internal__.EagerTensor\n"
        "self._inherited, part._replace(x=1), part._own\n"
        "class Part:\n"
        "    def _own(self): ...\n"
    )
    assert [(line, name) for _, line, name in findings({"a.py": text})] == [
        (1, "tensorflow.python.framework"),
        (2, "keras.src.layers"),
        (3, "_flatten_layers"),
        (4, "_remat_mode"),
        (5, "__internal__"),
    ]
