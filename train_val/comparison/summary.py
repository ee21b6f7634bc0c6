"""Summarizes a scoreboard: medians with their spread, and what it takes to reach a target loss."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from replay import replace_file
from train_val.comparison.cost import Cost
from train_val.comparison.runs import Curve, without_nan
from train_val.comparison.scoreboard import Score
from train_val.comparison.specifications import setting_text

REFERENCE = "adam"


class Spread(NamedTuple):
    """A median over seeds and the extremes; infinite if a run diverged, NaN if not measured."""

    median: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """A row of the scoreboard.

    Attributes:
      title: The optimizer.
      settings: The settings that tuning chose, as text.
      tried: The number of settings that were tried.
      inside: Whether the best settings have worse neighbours on all sides.
      losses: The training loss by step.
      accuracy: The accuracy on the test images at the last step.
      seconds: The seconds of all steps of a run; NaN if the cost could not be measured.
      steps_to_target: The step at which the median loss over seeds passes the target, interpolated
        between measurements in the logarithm; infinite if it never does, None without a target.
      seconds_to_target: The seconds until that step; NaN if `seconds` is.
      relative_steps: `steps_to_target` divided by that of the reference; None if there is no
        reference or it does not reach the target.
      relative_seconds: `seconds_to_target` divided by that of the reference; None likewise.
      diverged: The numbers of the seeds, from 0, and the steps at which their runs diverged.
      notes: The texts of the errors that ended runs.
      cost: The cost of a step, if it was measured.
    """

    title: str
    settings: str
    tried: int
    inside: bool
    losses: dict[int, Spread]
    accuracy: Spread
    seconds: Spread
    steps_to_target: float | None
    seconds_to_target: float | None
    relative_steps: float | None
    relative_seconds: float | None
    diverged: list[tuple[int, int]]
    notes: list[str]
    cost: Cost | None


def summarize(
    scores: Sequence[Score], report: Sequence[int], target: float | None = None
) -> tuple[list[Summary], float | None]:
    """Summarizes a scoreboard.

    Args:
      scores: The scores that `scoreboard` returned.
      report: The steps to report; losses were measured there.
      target: A training loss to reach; None for the median at the last step of the best Adam.

    Returns:
      The rows, and the target; None if there is no Adam or it diverged.
    """
    last = scores[0].curves[0].steps[-1]
    adams = [s for s in scores if s.entrant.identity["optimizer"] == REFERENCE]
    reference = min(
        adams, key=lambda s: _spread([c.at(last) for c in s.curves]).median, default=None
    )
    if target is None and reference is not None:
        median = _spread([curve.at(last) for curve in reference.curves]).median
        target = median if math.isfinite(median) else None

    def reach(score: Score) -> tuple[float, float]:
        if target is None:
            return math.inf, math.inf
        return reached(median_curve(score.curves), target)

    steps, seconds = (math.inf, math.inf) if reference is None else reach(reference)
    rows = []
    for score in scores:
        own_steps, own_seconds = reach(score)
        curves = score.curves
        diverged = [(i, c.diverged_at) for i, c in enumerate(curves) if c.diverged_at is not None]
        rows.append(
            Summary(
                title=score.entrant.title,
                settings=setting_text(score.tuning.best),
                tried=len(score.tuning.tried),
                inside=score.tuning.inside,
                losses={step: _spread([curve.at(step) for curve in curves]) for step in report},
                accuracy=_spread([_finite(c.accuracies[-1], -math.inf) for c in curves]),
                seconds=_seconds(curves),
                steps_to_target=None if target is None else own_steps,
                seconds_to_target=None if target is None else own_seconds,
                relative_steps=_ratio(own_steps, steps),
                relative_seconds=_ratio(own_seconds, seconds),
                diverged=diverged,
                notes=sorted({curve.note for curve in curves if curve.note}),
                cost=score.cost,
            )
        )
    return rows, target


def reached(curve: Curve, target: float) -> tuple[float, float]:
    """Returns the step and the seconds at which a run's loss is first at or below a target.

    Between two measurements the logarithm of the loss is assumed to fall along a line.
    """
    for place, loss in enumerate(curve.losses):
        if not math.isfinite(loss):
            break
        if loss <= target:
            if place == 0 or not 0 < loss < curve.losses[place - 1]:
                return float(curve.steps[place]), curve.seconds[place]
            before = curve.losses[place - 1]
            share = math.log(before / target) / math.log(before / loss)

            def between(values: Sequence[float], share: float = share, place: int = place) -> float:
                return values[place - 1] + share * (values[place] - values[place - 1])

            return between(curve.steps), between(curve.seconds)
    return math.inf, math.inf


def median_curve(curves: Sequence[Curve]) -> Curve:
    """Returns the medians over seeds of losses, seconds and accuracies, step by step."""

    def medians(name: str) -> list[float]:
        columns = zip(*[getattr(curve, name) for curve in curves], strict=True)
        # A diverged run counts as the worst, so that most others still have a median.
        worst = -math.inf if name == "accuracies" else math.inf
        middle = [statistics.median(_finite(value, worst) for value in c) for c in columns]
        return [_finite(value, math.nan) for value in middle]

    return Curve(curves[0].steps, medians("losses"), medians("seconds"), medians("accuracies"))


def least_loss(score: Score, step: int) -> float:
    """Returns the mean loss over the seeds at a step, for the settings that do best there.

    If tuning ran on other seeds, the means of its runs cannot be compared; the loss is then that
    of the settings that were chosen.
    """
    runs = score.over_grid or [score.curves]
    return min(float(np.mean([curve.at(step) for curve in one])) for one in runs)


def json_lines(
    path: str | Path,
    scores: Sequence[Score],
    rows: Sequence[Summary],
    about: Mapping[str, Any],
) -> None:
    """Writes a line about the comparison, then a line for each optimizer with all its numbers."""
    lines = [{"kind": "comparison", **about}]
    for score, row in zip(scores, rows, strict=True):
        lines.append(
            {
                "kind": "optimizer",
                **dataclasses.asdict(row),
                "text": score.entrant.text,
                "identity": score.entrant.identity,
                "setting": score.tuning.best,
                "tuning": [{"setting": s, "loss": loss} for s, loss in score.tuning.tried],
                "curves": [dataclasses.asdict(curve) for curve in score.curves],
            }
        )
    with replace_file(Path(path)) as file:
        file.write("".join(json.dumps(without_nan(line)) + "\n" for line in lines).encode())


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def _seconds(curves: Sequence[Curve]) -> Spread:
    def end(curve: Curve) -> float:
        # A run that diverged has neither a last loss nor the seconds until the end.
        diverged = not math.isfinite(curve.losses[-1])
        return _finite(curve.seconds[-1], math.inf if diverged else math.nan)

    ends = [end(curve) for curve in curves]
    if not any(map(math.isnan, ends)):
        return _spread(ends)
    # For runs that were not timed it is only known which of them diverged.
    known = _spread([math.inf if math.isinf(value) else 0.0 for value in ends])
    return Spread(*[value if math.isinf(value) else math.nan for value in known])


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _ratio(own: float, other: float) -> float | None:
    return own / other if math.isfinite(other) and other > 0 else None
