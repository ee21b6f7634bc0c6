"""What users can name is not lost: exported names, their arguments and attributes, flags.

`public_surface.txt` lists it. `python -m tests.docs.test_public_surface` adds what is new and
keeps what is gone, which only a release that says so in CHANGELOG.md takes out by hand.
"""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from absl import flags

from tests.docs.pages import ROOT
from tests.train_val.cli.test_commands import COMMANDS

LIST = Path(__file__).with_name("public_surface.txt")
PACKAGES = ("custom_op", "mlhf", "replay", "train_val")


def public_packages():
    """Returns the packages that export names."""
    names = list(PACKAGES)
    for package in PACKAGES:
        path = [str(ROOT / package)]
        names += [m.name for m in pkgutil.walk_packages(path, f"{package}.") if m.ispkg]
    return [name for name in names if hasattr(importlib.import_module(name), "__all__")]


def arguments(thing):
    """Returns the names of a function's or class's arguments."""
    try:
        names = inspect.signature(thing).parameters
    except (TypeError, ValueError):
        return []
    # What Python's own exceptions say of themselves depends on its version.
    return [name for name in names if name not in ("args", "kwargs")]


def attributes(thing):
    """Returns a class's public methods and attributes that this project defines."""
    bases = [base for base in thing.__mro__ if base.__module__.split(".")[0] in PACKAGES]
    return sorted({name for base in bases for name in vars(base) if not name.startswith("_")})


def names_of(package):
    """Yields a line for each exported name of a package, argument and attribute."""
    module = importlib.import_module(package)
    for name in module.__all__:
        thing = getattr(module, name)
        yield f"{package}.{name}"
        # Objects that are neither are values: a name is all there is to them.
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield from (f"{package}.{name}({argument})" for argument in arguments(thing))
        if inspect.isclass(thing):
            yield from (f"{package}.{name}.{attribute}" for attribute in attributes(thing))


def flags_of(command):
    """Yields a line for each flag of a command."""
    before = set(flags.FLAGS)
    importlib.import_module(command.removesuffix(".py").replace("/", ".")).define_flags()
    defined = sorted(set(flags.FLAGS) - before)
    for name in defined:
        delattr(flags.FLAGS, name)
    yield command
    yield from (f"{command} --{name}" for name in defined)


def surface():
    """Returns all lines."""
    found = {line for package in public_packages() for line in names_of(package)}
    return found | {line for command in COMMANDS for line in flags_of(command)}


def listed():
    return set(LIST.read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="module")
def found():
    return surface()


def test_nothing_is_lost(found):
    assert sorted(listed() - found) == [], "put it back, or say in CHANGELOG.md what to do instead"


def test_the_list_is_of_all_packages_and_commands():
    assert {line.split(".")[0] for line in listed()} >= set(PACKAGES)
    assert set(COMMANDS) <= listed()
    for line in (
        "mlhf.HessianFree(cg_iterations)",
        "mlhf.HessianFree.step",
        "replay.read_structure",
    ):
        assert line in listed()


if __name__ == "__main__":
    LIST.write_text("\n".join(sorted(surface() | (listed() if LIST.exists() else set()))) + "\n")
