"""Defines flags with a group and a mode that they are for, and checks numbers as they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags

from replay.numbers import check_count, check_number

FLAGS = flags.FLAGS

# The attribute of a flag that holds its `About`.
_ABOUT = "about"

# The order of the groups in `--help`.
GROUPS = (
    "What is trained",
    "Length and reports",
    "Meta-training",
    "Meta-training by evolution strategies",
    "The optimizer",
    "Hessian-free steps (MLHF, plain and Martens' Hessian-free, K-FAC)",
    "The learned part (MLHF)",
    "First-order optimizers",
    "What is compared",
    "Hyperparameters",
    "The method",
    "The experiment",
    "Files",
    "Speed and numbers",
    "Other",
)


@dataclasses.dataclass(frozen=True)
class About:
    """What `--help` says about a flag besides its text.

    Attributes:
      group: One of `GROUPS`.
      only: The mode that the flag is for, such as `--estimator=pes`; None if it always applies.
      shown: The default as text, if it depends on other flags or `None` would say nothing.
    """

    group: str = "Other"
    only: str | None = None
    shown: str | None = None


def about(flag: flags.Flag[Any]) -> About:
    """Returns what `--help` says about a flag; a flag defined elsewhere is in the group "Other"."""
    return getattr(flag, _ABOUT, About())


class _Number(flags.ArgumentParser[Any]):
    """Reads a finite number within bounds."""

    syntactic_help = "a number"

    def __init__(self, name: str, bounds: dict[str, float]) -> None:
        super().__init__()
        self._name, self._bounds = name, bounds

    def parse(self, argument: Any) -> float:
        try:
            value = float(argument)
        except (TypeError, ValueError):
            value = argument
        return check_number(f"--{self._name}", value, **self._bounds)

    def flag_type(self) -> str:
        return "float"


class _Whole(flags.ArgumentParser[Any]):
    """Reads a whole number within bounds."""

    syntactic_help = "a whole number"

    def __init__(self, name: str, at_least: int, at_most: int | None) -> None:
        super().__init__()
        self._name, self._bounds = name, (at_least, at_most)

    def parse(self, argument: Any) -> int:
        try:
            value = int(argument) if isinstance(argument, str) else argument
        except ValueError:
            value = argument
        return check_count(f"--{self._name}", value, *self._bounds)

    def flag_type(self) -> str:
        return "int"


def number(
    name: str,
    default: float | None,
    help: str,
    group: str,
    *,
    only: str | None = None,
    shown: str | None = None,
    **bounds: float,
) -> None:
    """Defines a flag that is a finite number.

    Args:
      name: The flag's name.
      default: The flag's default; None for no default.
      help: A sentence that says what the flag does.
      group: One of `GROUPS`.
      only: The mode that the flag is for, as in `About`.
      shown: The default as text, as in `About`.
      **bounds: Bounds as for `replay.numbers.check_number`: `above`, `at_least`, `below`,
        `at_most`.
    """
    parser = _Number(name, bounds)
    flags.DEFINE(parser, name, default, help, serializer=flags.ArgumentSerializer())
    _describe(name, group, only, shown)


def whole(
    name: str,
    default: int | None,
    help: str,
    group: str,
    *,
    at_least: int = 1,
    at_most: int | None = None,
    only: str | None = None,
    shown: str | None = None,
) -> None:
    """Defines a flag that is a whole number; arguments as for `number`."""
    parser = _Whole(name, at_least, at_most)
    flags.DEFINE(parser, name, default, help, serializer=flags.ArgumentSerializer())
    _describe(name, group, only, shown)


def choice(
    name: str,
    default: str | None,
    choices: Sequence[str],
    help: str,
    group: str,
    *,
    only: str | None = None,
    shown: str | None = None,
    case_sensitive: bool = True,
) -> None:
    """Defines a flag that is one of some words; arguments as for `number`."""
    flags.DEFINE_enum(name, default, list(choices), help, case_sensitive=case_sensitive)
    # absl puts the choices before the text; the help page has them beside the name.
    FLAGS[name].help = help
    _describe(name, group, only, shown)


def text(
    name: str,
    default: str | None,
    help: str,
    group: str,
    *,
    only: str | None = None,
    shown: str | None = None,
) -> None:
    """Defines a flag that is any text; arguments as for `number`."""
    flags.DEFINE_string(name, default, help)
    _describe(name, group, only, shown)


def words(
    name: str,
    default: Sequence[str] | None,
    help: str,
    group: str,
    *,
    only: str | None = None,
    shown: str | None = None,
) -> None:
    """Defines a flag that is a list of words separated by commas; arguments as for `number`."""
    flags.DEFINE_list(name, None if default is None else list(default), help)
    _describe(name, group, only, shown)


def switch(
    name: str,
    default: bool,
    help: str,
    group: str,
    *,
    only: str | None = None,
    shown: str | None = None,
) -> None:
    """Defines a flag that is on or off; arguments as for `number`."""
    flags.DEFINE_bool(name, default, help)
    _describe(name, group, only, shown)


def redescribe(names: Sequence[str], only: str | None = None, shown: str | None = None) -> None:
    """Changes what `--help` says about the mode and the default of flags, for one command."""
    for name in names:
        _describe(name, about(FLAGS[name]).group, only, shown)


def _describe(name: str, group: str, only: str | None, shown: str | None) -> None:
    setattr(FLAGS[name], _ABOUT, About(group, only, shown))
