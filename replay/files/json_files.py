"""Reads JSON that a kill, a disk or another program may have damaged.

This is the only place where the project reads JSON from files: either a file that holds one object
and is read whole, or a file of independent lines, each an object.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from replay.files.unreadable import DamagedFileError


class JsonLines(NamedTuple):
    """The contents of a file of JSON lines.

    Attributes:
      lines: The objects, in order.
      damaged: The numbers, from 1, of the lines that hold no object; a last line that a kill cut
        short does not count.
      torn: Whether the last line lacks its end, so that appending must begin a new line.
    """

    lines: list[dict[str, Any]]
    damaged: list[int]
    torn: bool


def read_json(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
      path: The file.
      what: The expected contents, for messages: "the settings of a run".

    Returns:
      The object. NaN and Infinity, which JSON does not have, are read as Python writes them.

    Raises:
      FileNotFoundError: If there is no such file.
      DamagedFileError: If the file holds something else. The message names it.
    """
    try:
        return _object(_content(path, what))
    except DamagedFileError:
        raise
    except ValueError as error:
        raise DamagedFileError(
            f"{os.fspath(path)} is damaged or something else: expected {what}, a JSON object, "
            f"found none ({error}). Put an intact copy in its place, or move it away.",
            os.fspath(path),
        ) from error


def read_json_lines(path: str | os.PathLike[str]) -> JsonLines:
    """Reads a file of one JSON object per line, and leaves out lines that hold no object.

    Args:
      path: The file.

    Returns:
      The objects, and the numbers of the lines left out.

    Raises:
      FileNotFoundError: If there is no such file.
      DamagedFileError: If the path is a directory.
    """
    content = _content(path, "a file of one JSON object per line")
    texts = content.split(b"\n")
    lines, damaged = [], []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            lines.append(_object(text))
        except ValueError:
            if number < len(texts):
                damaged.append(number)
    return JsonLines(lines, damaged, bool(texts[-1]))


def _content(path: str | os.PathLike[str], what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except IsADirectoryError as error:
        raise DamagedFileError(
            f"Expected {what} in {os.fspath(path)}, found a directory: move it away.",
            os.fspath(path),
        ) from error


def _object(content: bytes) -> dict[str, Any]:
    try:
        # json.loads would guess an encoding from NUL bytes.
        value = json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start:,} is no UTF-8") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}")
    return value
