"""The page that `--help` prints: flags in groups, each with its default and what it is for."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

from absl import flags

from train_val.cli.definitions import GROUPS, about
from train_val.cli.exit_statuses import RULE


def page(command: str, summary: str, names: Iterable[str], values: flags.FlagValues) -> str:
    """Returns the text of the help page.

    Args:
      command: The command as a user types it.
      summary: A paragraph or two that say what the command does.
      names: The names of the command's flags.
      values: The absl object that defines the flags.
    """
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    groups: dict[str, list[flags.Flag[Any]]] = {group: [] for group in GROUPS}
    for name in names:
        groups[about(values[name]).group].append(values[name])
    lines = [*textwrap.wrap(summary, width), "", f"    {command} --FLAG=VALUE ...", ""]
    for group, members in groups.items():
        if members:
            lines += [group, ""]
            for flag in members:
                lines += _entry(flag, width)
            lines.append("")
    lines += textwrap.wrap(f"Exit status: {RULE}.", width)
    return "\n".join(lines)


def _entry(flag: flags.Flag[Any], width: int) -> list[str]:
    description = about(flag)
    sentences = [flag.help.strip()]
    if description.only:
        sentences.append(f"Only for {description.only}.")
    sentences.append(f"Default: {_default(flag)}.")
    text = " ".join(sentences)
    return [
        f"  {_form(flag)}",
        *textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6),
    ]


def _form(flag: flags.Flag[Any]) -> str:
    if flag.boolean:
        return f"--[no]{flag.name}"
    choices = getattr(flag.parser, "enum_values", None)
    if choices:
        return f"--{flag.name}={'|'.join(choices)}"
    kinds = {"float": "NUMBER", "int": "N"}
    value = kinds.get(flag.parser.flag_type(), "TEXT")
    if flag.parser.flag_type() == "comma separated list of strings":
        value = "A,B,..."
    return f"--{flag.name}={value}"


def _default(flag: flags.Flag[Any]) -> str:
    shown = about(flag).shown
    if shown is not None:
        return shown.replace("{}", _value(flag.default))
    return _value(flag.default)


def _value(value: Any) -> str:
    if value is None or value == [] or value == "":
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
