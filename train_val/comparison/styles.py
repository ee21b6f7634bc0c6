"""The look of an optimizer: one color and one marker in every picture of the project.

The colors are those of Okabe and Ito (Color Universal Design, 2008), which readers with any common
color blindness can tell apart; the markers distinguish lines printed in black and white. Colors
differ by family (plain Hessian-free is blue, whatever its settings); variants of one family in the
same picture differ by their dashes.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

# Okabe and Ito's, without the yellow, which is too pale for a line on white.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#5A5A5A"

# The counterparts on a dark page.
ON_DARK = {
    BLACK: "#F2F2F2",
    ORANGE: "#F7C948",
    SKY: "#7CC7F2",
    GREEN: "#2FC79A",
    BLUE: "#4FA3E0",
    VERMILION: "#F9703E",
    PURPLE: "#E29CC4",
    GREY: "#868686",
}
COLORS = tuple(ON_DARK)

_LOOKS = {
    "meta": (VERMILION, "o"),
    "hf": (BLUE, "s"),
    "hf_lm": (BLUE, "D"),
    "martens": (SKY, "d"),
    "kfac": (GREEN, "^"),
    "adam": (BLACK, "P"),
    "momentum": (PURPLE, "v"),
    "rmsprop": (ORANGE, "X"),
    "sgd": (GREY, "*"),
    "untrained": (ORANGE, "o"),
    "muon": (PURPLE, "h"),
    "metamuon": (SKY, "H"),
    "curvaturemuon": (PURPLE, "8"),
    "soap": (GREEN, "p"),
    "adamw": (GREY, "P"),
    "lm": (VERMILION, "D"),
    "lm on growing samples": (VERMILION, "o"),
    "l-bfgs": (GREY, ">"),
    "adam then l-bfgs": (BLACK, ">"),
    "self-scaled broyden": (BLUE, "<"),
    "tf-levenberg-marquardt": (ORANGE, "D"),
}
_NAMES = {"mlhf": "meta", "hessian-free": "hf", "k-fac": "kfac", "martens' hf": "martens"}
_NAMES |= {"muon, length learned": "metamuon", "muon, length from curvature": "curvaturemuon"}
# For families that are not in the table.
_MARKERS = "<>8H"
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.5), (7, 2, 1.5, 2), (3, 4), (1, 1))


@dataclasses.dataclass(frozen=True)
class Style:
    """The look of one line.

    Attributes:
      color: A hexadecimal RGB color for white paper; `ON_DARK` has its counterpart.
      marker: A Matplotlib marker.
      dashes: Lengths of dashes and gaps in points; empty for a solid line.
    """

    color: str
    marker: str
    dashes: tuple[float, ...] = ()


def family(name: str) -> str:
    """Returns the family of an optimizer, the key of its look.

    Args:
      name: A specification such as `"hf:cg=4"`, a class such as `"Adam"`, or a title such as
        `"Hessian-free"`.
    """
    name = name.split(":")[0].strip().lower()
    return _NAMES.get(name, name)


def styles(names: Sequence[str]) -> list[Style]:
    """Returns the looks of the optimizers of one picture.

    Args:
      names: Names as for `family`, one for each line, in their order.

    Returns:
      One style for each: color and marker depend on the family alone, dashes on how many of the
      same family came before.
    """
    seen: dict[str, int] = {}
    looks = []
    for name in names:
        key = family(name)
        count = seen[key] = seen.get(key, -1) + 1
        looks.append(Style(*_look(key), DASHES[count % len(DASHES)]))
    return looks


def _look(key: str) -> tuple[str, str]:
    if key in _LOOKS:
        return _LOOKS[key]
    # The same in every picture and process, unlike Python's hash.
    number = zlib.crc32(key.encode())
    return COLORS[number % len(COLORS)], _MARKERS[number // len(COLORS) % len(_MARKERS)]
