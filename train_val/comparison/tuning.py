"""Tunes until the best settings lie inside the range that was tried."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Settings whose grid is continued if the best is at an edge: positive numbers of any size.
OPEN = ("learning_rate", "damping", "damping_scale")


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The result of tuning.

    Attributes:
      best: The settings with the least loss.
      tried: All settings that were tried, in order, with their losses.
      inside: Whether both neighbours of the best were tried along every open setting.
    """

    best: dict[str, Any]
    tried: list[tuple[dict[str, Any], float]]
    inside: bool


def tune(
    axes: Mapping[str, Sequence[Any]],
    evaluate: Callable[[dict[str, Any]], float],
    largest: int = 16,
    least: int = 1,
    prepare: Callable[[Sequence[dict[str, Any]]], None] = lambda settings: None,
) -> Tuning:
    """Tries a grid, then the neighbours of the best, until it has neighbours on all sides.

    Args:
      axes: For each setting, the values to begin from, ascending. An open setting (a learning
        rate, a damping) of two values or more is continued beyond its ends: on the ladder
        1, 3, 10, 30 ... if its values are on it, else by the ratio of its last two.
      evaluate: Takes settings; returns a loss, which is infinite or NaN if they diverge.
      largest: The most settings to try; a larger grid is still tried as a whole.
      least: The fewest settings to try, if there are open ones and `largest` allows: once the best
        has neighbours, the geometric means between it and them are tried, and so on.
      prepare: Called with settings before they are tried one after the other, to compute them at
        once.

    Returns:
      The best settings. Without any axes there is nothing to tune, and `best` is empty.
    """
    tried: dict[str, tuple[dict[str, Any], float]] = {}

    def attempt(setting: dict[str, Any]) -> None:
        if json.dumps(setting) not in tried:
            loss = evaluate(setting)
            tried[json.dumps(setting)] = setting, loss if math.isfinite(loss) else math.inf

    if not axes:
        return Tuning({}, [], True)
    grid = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    prepare(grid)
    for setting in grid:
        attempt(setting)
    while True:
        # If all diverge, go on from the smallest rate.
        best, _ = min(tried.values(), key=lambda pair: (pair[1], pair[0].get("learning_rate", 0)))
        beside = [
            {**best, name: value}
            for name in axes
            if name in OPEN
            for value in _neighbours(best[name], axes[name], [s[name] for s, _ in tried.values()])
        ]
        missing = [setting for setting in beside if json.dumps(setting) not in tried]
        inside = not missing
        if inside and len(tried) < min(least, largest):
            missing = [{**best, **change} for change in _between(best, beside)]
            missing = [s for s in missing if json.dumps(s) not in tried]
            missing = missing[: min(least, largest) - len(tried)]
        if not missing or len(tried) >= largest:
            return Tuning(best, list(tried.values()), inside)
        missing = missing[: largest - len(tried)]
        prepare(missing)
        for setting in missing:
            attempt(setting)


def _between(
    best: Mapping[str, Any], beside: Sequence[Mapping[str, Any]]
) -> list[dict[str, float]]:
    """Returns the values half-way, on a logarithmic axis, from the best to its neighbours."""
    changes = [
        {name: float(f"{math.sqrt(best[name] * other[name]):.2g}")}
        for other in beside
        for name in other
        if other[name] != best[name]
    ]
    # Rounded to two digits, values that are close would be those that they lie between.
    return [c for c in changes if all(c[name] != best[name] for name in c)]


def _neighbours(value: float, axis: Sequence[float], seen: Sequence[float]) -> list[float]:
    """Returns the neighbours of a value of an open setting; beyond an end, the next rung."""
    values = sorted({*axis, *seen})
    place = values.index(value)
    below = values[place - 1] if place else _beyond(values, -1)
    above = values[place + 1] if place + 1 < len(values) else _beyond(values, 1)
    return [neighbour for neighbour in (below, above) if neighbour is not None]


def _beyond(values: Sequence[float], direction: int) -> float | None:
    end, inner = (values[0], values[1]) if direction < 0 else (values[-1], values[-2])
    if not end > 0 or not inner > 0:
        return None
    rungs = [_rung(value) for value in values]
    if None not in rungs:
        number = (rungs[0] if direction < 0 else rungs[-1]) + direction  # type: ignore[operator]
        return float(f"{(1, 3)[number % 2]}e{number // 2}")
    return float(f"{end * end / inner:.3g}")


def _rung(value: float) -> int | None:
    """Returns n if a value is the nth of ... 1, 3, 10, 30 ..., counted from 1; else None."""
    if not value > 0:
        return None
    digits, exponent = f"{value:.6e}".split("e")
    if digits not in ("1.000000", "3.000000"):
        return None
    return 2 * int(exponent) + (digits[0] == "3")
