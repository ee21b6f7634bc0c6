"""Every contender over its whole grid, on all seeds; what the quickstart does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train_val.comparison.contenders import Contender
from train_val.comparison.runs import Curve, RunCache, run
from train_val.problems.image_problems import Problem


@dataclasses.dataclass(frozen=True)
class Result:
    """A contender's runs at its best settings.

    Attributes:
      name: The contender's.
      setting: The best of its grid, by the mean loss at the last step.
      curves: One a seed, at the best settings.
      best: For each step asked for, the least mean loss over the grid; each may be at another
        setting. With `tuning_seeds` that of the best settings: the others have not run the seeds.
      inside: Whether the best settings are not at the edge of the grid.
    """

    name: str
    setting: Any
    curves: list[Curve]
    best: dict[int, float]
    inside: bool

    def mean(self, step: int) -> float:
        """Returns the mean loss over seeds at a step, at the best settings."""
        return float(np.mean([curve.at(step) for curve in self.curves]))


def compare(
    problem: Problem,
    contenders: Sequence[Contender],
    *,
    seeds: Sequence[int],
    steps: int,
    every: int,
    report: Sequence[int],
    tuning_seeds: Sequence[int] | None = None,
    on_run: Callable[[str], None] = lambda name: None,
    cache: str | Path | None = None,
) -> list[Result]:
    """Runs every contender over its grid, and at its best settings over all seeds.

    Args:
      problem: What is trained.
      contenders: Who trains it.
      seeds: Of the reported runs.
      steps: Of a run.
      every: Steps between measurements.
      report: Steps that are asked for, multiples of `every`.
      tuning_seeds: Of the runs over the grid; all seeds by default.
      on_run: Called after each run with the contender's name.
      cache: A file of JSON lines, one a run; runs that stand in it are not run again. They are kept
        under the problem's name, and the contender's name and identity.

    Returns:
      A result for each contender.
    """
    known = RunCache(cache)

    def once(contender: Contender, setting: Any, seed: int) -> Curve:
        key: dict[str, Any] = {"problem": problem.task.name, "name": contender.name}
        if contender.identity is not None:
            key["identity"] = contender.identity
        key.update(setting=setting, seed=seed, steps=steps, every=every)
        curve = known.curve(key)
        if curve is None:
            curve = run(problem, contender.make(setting), seed, steps, every)
            known.add_curve(key, curve)
        on_run(contender.name)
        return curve

    tuning = list(seeds if tuning_seeds is None else tuning_seeds)
    results = []
    for contender in contenders:
        curves: dict[int, list[Curve]] = {}
        for place, setting in enumerate(contender.grid):
            curves[place] = []
            for seed in tuning if len(contender.grid) > 1 else seeds:
                curves[place].append(once(contender, setting, seed))

        def mean(place: int, step: int, curves=curves) -> float:
            return float(np.mean([curve.at(step) for curve in curves[place]]))

        chosen = min(curves, key=lambda place: mean(place, steps))
        for seed in seeds:
            if len(contender.grid) > 1 and seed not in tuning:
                setting = contender.grid[chosen]
                curves[chosen].append(once(contender, setting, seed))
        places = curves if set(tuning) == set(seeds) else [chosen]
        best = {step: min(mean(place, step) for place in places) for step in report}
        winners = {min(curves, key=functools.partial(mean, step=step)) for step in report}
        results.append(
            Result(
                contender.name,
                contender.grid[chosen],
                curves[chosen],
                best,
                len(contender.grid) == 1 or _inside(contender.grid, winners),
            )
        )
    return results


def _inside(grid: Sequence[Any], winners: set[int]) -> bool:
    """Whether no winner lies at an end of an axis of the grid, axes of one value apart."""
    points = [point if isinstance(point, tuple) else (point,) for point in grid]
    for axis in range(len(points[0])):
        values = sorted({point[axis] for point in points})
        if len(values) > 1 and any(points[i][axis] in (values[0], values[-1]) for i in winners):
            return False
    return True
