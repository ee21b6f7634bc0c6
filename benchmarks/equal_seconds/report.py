"""The table and the picture of the runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.equal_seconds.methods import METHODS, RATES
from train_val.comparison.styles import styles

ERRORS = (1e-2, 1e-3, 1e-4, 1e-5)
# The methods of this package; what others have as well are rivals.
OURS = ("lm on growing samples", "lm", "martens")
_NAMES = {"adam then l-bfgs": "adam, then l-bfgs"}
Record = Mapping[str, Any]


def best_rate(records: Sequence[Record], name: str, budget: float) -> float | None:
    """Returns the rate with the lowest error at the end of the first seed; None without runs."""
    runs = [r for r in records if r["method"] == name and r["budget"] == budget]
    if not runs:
        return None
    first = min(r["seed"] for r in runs)
    return min((r for r in runs if r["seed"] == first), key=end)["rate"]


def end(record: Record) -> float:
    """Returns the error at the end, infinite if it is not finite."""
    error = record["points"][-1][1] if record["points"] else math.inf
    return error if math.isfinite(error) else math.inf


def error_at(record: Record, seconds: float) -> float:
    """Returns the error at the last measurement until then; infinite before the first."""
    errors = [error for time, error in record["points"] if time <= seconds * 1.01]
    return errors[-1] if errors and math.isfinite(errors[-1]) else math.inf


def seconds_to(record: Record, error: float) -> float:
    """Returns the seconds of the first measurement with at most that error, or infinity."""
    return next((time for time, e in record["points"] if e <= error), math.inf)


def chosen(records: Sequence[Record]) -> dict[str, list[list[Record]]]:
    """Returns the runs of each method at its best rate, one list for each budget."""
    runs: dict[str, list[list[Record]]] = {}
    for name in METHODS:
        for budget in sorted({r["budget"] for r in records if r["method"] == name}):
            rate = best_rate(records, name, budget) if name in RATES else None
            same = [
                r for r in records if (r["method"], r["budget"], r["rate"]) == (name, budget, rate)
            ]
            runs.setdefault(name, []).append(sorted(same, key=lambda r: r["seed"]))
    return runs


def curve(groups: Sequence[Sequence[Record]], seconds: float) -> float:
    """Returns the lowest over the budgets of the median over the seeds of the error at a time."""
    return min(statistics.median(error_at(r, seconds) for r in group) for group in groups)


def table(records: Sequence[Record], times: Sequence[float]) -> str:
    """Returns the medians as a table in Markdown."""
    heads = [f"{t:g} s" for t in times] + [f"to {e:.0e}" for e in ERRORS]
    lines = [
        "| method | rate | " + " | ".join(heads) + " |",
        "| --- |" + " --- |" * (len(heads) + 1),
    ]
    for name, groups in chosen(records).items():
        rate = groups[-1][0]["rate"]
        cells = [_error(curve(groups, t)) for t in times]
        for error in ERRORS:
            times_to = [statistics.median(seconds_to(r, error) for r in g) for g in groups]
            cells.append(f"{min(times_to):.1f} s" if min(times_to) < math.inf else "")
        shown = "" if rate is None else f"{rate:g}"
        lines.append(f"| {_NAMES.get(name, name)} | {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shares(records: Sequence[Record], times: Sequence[float], ours: str) -> str:
    """Returns a sentence: the error of one method as a share of the best rival's, by time."""
    groups = chosen(records)
    others = {name: group for name, group in groups.items() if name not in OURS}
    if ours not in groups or not others:
        return ""
    parts = []
    for t in times:
        best = min(others, key=lambda name: curve(others[name], t))
        share = curve(groups[ours], t) / curve(others[best], t)
        parts.append(f"{share:.3g} after {t:g} s ({best})")
    return f"The error of {ours} as a share of the best rival's: " + ", ".join(parts) + "."


def picture(records: Sequence[Record], path: str | Path, title: str) -> None:
    """Draws median errors over seconds, both logarithmic, as SVG or PNG by the name's end."""
    from matplotlib.figure import Figure

    runs = chosen(records)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    last = max(r["budget"] for r in records)
    times = [0.5 * (last / 0.5) ** (k / 60) for k in range(61)]
    for (name, groups), style in zip(runs.items(), styles(list(runs)), strict=True):
        shown = [(t, curve(groups, t)) for t in times]
        shown = [(t, error) for t, error in shown if math.isfinite(error)]
        if not shown:
            continue
        axis.loglog(
            *zip(*shown, strict=True),
            color=style.color,
            marker=style.marker,
            markevery=10,
            dashes=style.dashes or (None, None),
            label=_NAMES.get(name, name),
        )
    axis.set_xlabel("seconds of one processor core")
    axis.set_ylabel("relative L2 error")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path)


def _error(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else ""
