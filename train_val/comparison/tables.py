"""Results as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from train_val.comparison.scoreboard import Score
from train_val.comparison.specifications import setting_text
from train_val.comparison.summary import Spread, Summary, least_loss, median_curve


def scoreboard_table(rows: Sequence[Summary], measured: str = "test accuracy") -> str:
    """Returns a scoreboard as a Markdown table with the contents that `cells` describes."""
    head, body = cells(rows, measured)
    return _markdown([head, ["---"] * len(head), *body])


def cells(
    rows: Sequence[Summary], measured: str = "test accuracy"
) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of a scoreboard's table, as text.

    Losses and accuracies are medians with the extremes over the seeds in brackets. Steps and
    seconds to a target are multiples of Adam's; without Adam, or if it does not reach the target,
    they are absolute. Columns without any measurement are left out; if only some optimizers were
    measured, the cells of the others are empty.

    Args:
      rows: The summaries of a scoreboard.
      measured: What was measured on the test data: `"test accuracy"`, shown as a percentage, or
        something else.
    """
    report = list(rows[0].losses)
    targets = [*_to_target(rows, "steps"), *_to_target(rows, "seconds")]
    costs = any(row.cost is not None for row in rows)
    head = ["optimizer", "tuned", "tried"]
    head += [f"loss at step {step}" for step in report]
    head += [measured, "seconds"]
    head += [name for name, _ in targets]
    if costs:
        head += ["a step in gradients", "peak GB"]
    body = []
    for place, row in enumerate(rows):
        cell = [
            row.title,
            row.settings + ("" if row.inside else " (edge)"),
            str(row.tried) if row.tried else "not tuned",
            *[_spread(row.losses[step]) for step in report],
            _spread(row.accuracy, percent=measured == "test accuracy"),
            number(row.seconds.median),
        ]
        if row.diverged:
            steps = ", ".join(str(step) for _, step in row.diverged)
            cell[0] += f" (diverged at step {steps})"
        cell += [column[place] for _, column in targets]
        if costs:
            cell += [number(row.cost.gradients), _memory(row)] if row.cost else ["", ""]
        body.append(cell)
    return head, body


def number(value: float) -> str:
    """Returns three digits of a number, or an empty text if it was not measured."""
    if math.isnan(value):
        return ""
    if not math.isfinite(value):
        return "diverged"
    return f"{value:.3g}" if abs(value) < 1000 or abs(value) >= 1e5 else f"{value:.0f}"


def _spread(spread: Spread, percent: bool = False) -> str:
    if not math.isfinite(spread.median):
        return number(spread.median)

    def text(value: float) -> str:
        return f"{100 * value:.1f}%" if percent and math.isfinite(value) else number(value)

    if spread.low == spread.high:
        return text(spread.median)
    return f"{text(spread.median)} ({text(spread.low)} to {text(spread.high)})"


def _to_target(rows: Sequence[Summary], unit: str) -> list[tuple[str, list[str]]]:
    """Returns the head and the cells of the column for a target, in a list; empty without one."""
    for name, head, text in (
        (f"relative_{unit}", f"{unit} to target, by Adam's", "{:.2f}".format),
        (f"{unit}_to_target", f"{unit} to target", number),
    ):
        values = [getattr(row, name) for row in rows]
        if any(value is not None for value in values):
            return [(head, [_reached(value, text) for value in values])]
    return []


def _reached(value: float | None, text: Callable[[float], str]) -> str:
    if value is None or math.isnan(value):
        return ""
    return text(value) if math.isfinite(value) else "not reached"


def _memory(row: Summary) -> str:
    peak = row.cost.peak_bytes if row.cost is not None else None
    return "" if peak is None else f"{peak / 1e9:.2f}"


def table(scores: Sequence[Score], report: Sequence[int]) -> str:
    """Returns a short Markdown table: `least_loss` at some steps, and the seconds of a run."""
    head = ["optimizer", "settings", *[f"loss at step {step}" for step in report]]
    head += [f"seconds for {report[-1]} steps"]
    rows = [head, ["---"] * len(head)]
    for score in scores:
        middle = median_curve(score.curves)
        seconds = middle.seconds[middle.steps.index(report[-1])]
        settings = setting_text(score.tuning.best) + ("" if score.tuning.inside else " (edge)")
        rows.append(
            [
                score.entrant.title,
                settings if score.tuning.tried else "not tuned",
                *[number(least_loss(score, step)) for step in report],
                f"{seconds:.2f}" if math.isfinite(seconds) else "diverged",
            ]
        )
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped)
