"""Lets a clone's folders be imported by the names that they have in an installed package.

The wheel holds the folders `custom_op`, `replay` and `train_val` inside `mlhf`, where they collide
with nobody's packages. A clone holds them at its top. There `import mlhf.custom_op` gives the
module that `import custom_op` gives, the same object, and so on with all modules inside.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

FOLDERS = ("custom_op", "replay", "train_val")
_PREFIX = "mlhf."
_ROOT = Path(__file__).resolve().parents[1]


def adopt_folders() -> None:
    """Makes the clone's folders importable as parts of `mlhf`, once per process."""
    if not any(isinstance(finder, _Folders) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Folders())


class _Folders(MetaPathFinder, Loader):
    """Finds `mlhf.custom_op` and what is inside, and loads what the clone calls `custom_op`."""

    def __init__(self) -> None:
        self._own_specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns how to load a module whose name is one in a clone after `mlhf.`, else None."""
        name = fullname.removeprefix(_PREFIX)
        if name == fullname or name.partition(".")[0] not in FOLDERS:
            return None
        if name in FOLDERS:
            _refuse_another(name)
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return None
        is_package = found.submodule_search_locations is not None
        return ModuleSpec(fullname, self, origin=found.origin, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Returns the module that the clone has under its own name."""
        module = importlib.import_module(spec.name.removeprefix(_PREFIX))
        # The import system is about to give the module the spec of its second name.
        self._own_specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Gives a module its own spec back, and all that it has loaded their second names."""
        assert module.__spec__ is not None
        module.__spec__ = self._own_specs.pop(module.__spec__.name)
        # A submodule that is imported anew becomes an attribute of its package, over a function of
        # the same name such as `custom_op.checkpoint`. One that is known by now does not.
        for name, loaded in list(sys.modules.items()):
            if name.startswith(f"{module.__name__}."):
                sys.modules.setdefault(_PREFIX + name, loaded)


def _refuse_another(name: str) -> None:
    """Raises ImportError if another project's package comes first under a folder's name."""
    found = importlib.util.find_spec(name)
    places = [] if found is None else list(found.submodule_search_locations or [])
    if [Path(place).resolve() for place in places] != [_ROOT / name]:
        where = places[0] if places else "none"
        raise ImportError(
            f"Expected the package {name} of the clone in {_ROOT}, found {where}: put the clone "
            "first on PYTHONPATH, or install it without --editable, which keeps the package inside "
            "mlhf."
        )
