"""Checks of numbers, whose errors say what was expected and what was found."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any


def check_count(name: str, value: Any, at_least: int = 1, at_most: int | None = None) -> int:
    """Returns an integer within bounds, or raises ValueError."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < at_least or (at_most is not None and value > at_most):
        limit = "" if at_most is None else f" and at most {at_most}"
        raise ValueError(
            f"Expected {name} to be a whole number of at least {at_least}{limit}, got {value!r}."
        )
    return int(value)


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """Returns a finite number within bounds, or raises ValueError."""
    bounds = [
        (f"above {above}", above is None or _holds(value, lambda v: v > above)),
        (f"at least {at_least}", at_least is None or _holds(value, lambda v: v >= at_least)),
        (f"below {below}", below is None or _holds(value, lambda v: v < below)),
        (f"at most {at_most}", at_most is None or _holds(value, lambda v: v <= at_most)),
    ]
    texts = [text for text, _ in bounds if "None" not in text]
    if not _holds(value, math.isfinite) or not all(holds for _, holds in bounds):
        raise ValueError(
            f"Expected {name} to be a finite number{' ' if texts else ''}{' and '.join(texts)}, "
            f"got {value!r}."
        )
    return float(value)


def _holds(value: Any, condition: Callable[[Any], bool]) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    return bool(condition(value))
