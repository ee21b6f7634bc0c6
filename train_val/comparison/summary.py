"""A scoreboard in numbers: medians with their spread, and what a target loss takes."""

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
    """A median over seeds and the extremes; infinite where a run diverged, NaN if not measured."""

    median: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """A row of the scoreboard.

    Attributes:
      title: The optimizer.
      settings: What tuning chose, in words.
      tried: How many settings were tried.
      inside: Whether the best has worse neighbours on all sides.
      losses: The training loss by step.
      accuracy: On the test images at the last step.
      seconds: Of all steps of a run; not a number where its cost could not be measured.
      steps_to_target: The step at which the median loss over seeds passes the target, between
        measurements along a line in the logarithm; infinite if it never does, None without a
        target.
      seconds_to_target: The seconds until there; not a number as `seconds`.
      relative_steps: `steps_to_target` by that of the reference; None where there is none, or it
        does not reach the target.
      relative_seconds: The same of the seconds.
      diverged: The seeds' numbers, from 0, and steps of runs that diverged.
      notes: In the words of the errors that ended runs.
      cost: Of a step, if it was measured.
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
    """Puts a scoreboard into numbers.

    Args:
      scores: Of `scoreboard`.
      report: Steps that are asked for, at which losses were measured.
      target: A training loss to reach; None for the median at the last step of the best Adam.

    Returns:
      The rows, and the target; None if there is no Adam, or it diverged.
    """
    last = scores[0].curves[0].steps[-1]
    adams = [s for s in scores if s.entrant.identity["optimizer"] == REFERENCE]
    reference = min(
        adams, key=lambda s: _spread([c.at(last) for c in s.curves]).median, default=None
    )
    if target is None and reference is not None:
        found = _spread([curve.at(last) for curve in reference.curves]).median
        target = found if math.isfinite(found) else None

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
    """Returns the step and the seconds at which a run's loss first is at most a target.

    Between two measurements it is taken to fall along a line in the logarithm.
    """
    for place, loss in enumerate(curve.losses):
        if not math.isfinite(loss):
            break
        if loss <= target:
            if place == 0 or not 0 < loss < curve.losses[place - 1]:
                return float(curve.steps[place]), curve.seconds[place]
            before = curve.losses[place - 1]
            share = math.log(before / target) / math.log(before / loss)

            def between(values, share=share, place=place):
                return values[place - 1] + share * (values[place] - values[place - 1])

            return between(curve.steps), between(curve.seconds)
    return math.inf, math.inf


def median_curve(curves: Sequence[Curve]) -> Curve:
    """Returns the medians over seeds of losses, seconds and accuracies, step by step."""

    def medians(name: str) -> list[float]:
        columns = zip(*[getattr(curve, name) for curve in curves], strict=True)
        # A diverged run counts as the worst, so that most others still have a median.
        worst = -math.inf if name == "accuracies" else math.inf
        found = [statistics.median(_finite(value, worst) for value in c) for c in columns]
        return [_finite(value, math.nan) for value in found]

    return Curve(curves[0].steps, medians("losses"), medians("seconds"), medians("accuracies"))


def least_loss(score: Score, step: int) -> float:
    """Returns the mean loss over the seeds at a step, of the settings that do best there.

    Where tuning ran on other seeds, means of its runs do not compare: the loss is that of the
    settings that were chosen.
    """
    runs = score.over_grid or [score.curves]
    return min(float(np.mean([curve.at(step) for curve in one])) for one in runs)


def json_lines(
    path: str | Path,
    scores: Sequence[Score],
    rows: Sequence[Summary],
    about: Mapping[str, Any],
) -> None:
    """Writes a line about the comparison, then a line an optimizer, with all its numbers."""
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
        # A run that diverged has neither a last loss nor the seconds until there.
        diverged = not math.isfinite(curve.losses[-1])
        return _finite(curve.seconds[-1], math.inf if diverged else math.nan)

    ends = [end(curve) for curve in curves]
    if not any(map(math.isnan, ends)):
        return _spread(ends)
    # Of runs that were not timed it is known only which of them diverged.
    known = _spread([math.inf if math.isinf(value) else 0.0 for value in ends])
    return Spread(*[value if math.isinf(value) else math.nan for value in known])


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _ratio(own: float, other: float) -> float | None:
    return own / other if math.isfinite(other) and other > 0 else None
