"""Tuning until the best settings lie inside what was tried."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Settings whose grid goes on where its best is at an edge: positive numbers of any size.
OPEN = ("learning_rate", "damping", "damping_scale")


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What tuning found.

    Attributes:
      best: The settings of the least loss.
      tried: All settings that were tried, in their order, with their losses.
      inside: Whether the best was tried beside both its neighbours along every open setting.
    """

    best: dict[str, Any]
    tried: list[tuple[dict[str, Any], float]]
    inside: bool


def tune(
    axes: Mapping[str, Sequence[Any]],
    evaluate: Callable[[dict[str, Any]], float],
    largest: int = 16,
) -> Tuning:
    """Tries a grid, then what is beside the best, until the best has neighbours on all sides.

    Args:
      axes: For each setting, the values to begin from, ascending. An open setting (a learning
        rate, a damping) of two values or more is continued beyond its ends: on the ladder
        1, 3, 10, 30 ... if its values are on it, else by the ratio of its last two.
      evaluate: From settings to a loss; infinite or not a number where they diverge.
      largest: At most so many settings are tried (but the whole grid).

    Returns:
      The best settings. Without any axes there is nothing to tune: `best` is empty.
    """
    tried: dict[str, tuple[dict[str, Any], float]] = {}

    def attempt(setting: dict[str, Any]) -> None:
        if json.dumps(setting) not in tried:
            loss = evaluate(setting)
            tried[json.dumps(setting)] = setting, loss if math.isfinite(loss) else math.inf

    if not axes:
        return Tuning({}, [], True)
    for values in itertools.product(*axes.values()):
        attempt(dict(zip(axes, values, strict=True)))
    while True:
        # Where all diverge, the smallest rates are the ones to go on from.
        best, _ = min(tried.values(), key=lambda one: (one[1], one[0].get("learning_rate", 0)))
        beside = [
            {**best, name: value}
            for name in axes
            if name in OPEN
            for value in _neighbours(best[name], axes[name], [s[name] for s, _ in tried.values()])
        ]
        missing = [setting for setting in beside if json.dumps(setting) not in tried]
        inside = not missing
        if inside or len(tried) >= largest:
            return Tuning(best, list(tried.values()), inside)
        for setting in missing[: largest - len(tried)]:
            attempt(setting)


def _neighbours(value: float, axis: Sequence[float], seen: Sequence[float]) -> list[float]:
    """Returns what stands beside a value of an open setting; beyond an end, the next rung."""
    values = sorted({*axis, *seen})
    place = values.index(value)
    below = values[place - 1] if place else _beyond(values, -1)
    above = values[place + 1] if place + 1 < len(values) else _beyond(values, 1)
    return [found for found in (below, above) if found is not None]


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
    """Returns n where a value is the nth of ... 1, 3, 10, 30 ..., counted from 1; else None."""
    if not value > 0:
        return None
    digits, exponent = f"{value:.6e}".split("e")
    if digits not in ("1.000000", "3.000000"):
        return None
    return 2 * int(exponent) + (digits[0] == "3")
