"""The scoreboard: every optimizer tuned under one budget, then run on seeds of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlhf.runs.progress import ProgressBar
from train_val.comparison.cost import Cost
from train_val.comparison.runs import Curve, RunCache, measured_steps, run
from train_val.comparison.specifications import Entrant, setting_text
from train_val.comparison.tuning import Tuning, tune
from train_val.comparison.unfinished import Unfinished
from train_val.problems.image_problems import Problem

# Of the runs that tune; the reported ones are 1, 2, ...
TUNING_SEED = 0


@dataclasses.dataclass(frozen=True)
class Score:
    """What an optimizer did.

    Attributes:
      entrant: Who.
      tuning: How its settings were found.
      curves: One a seed, at its best settings.
      cost: Of a step, at its best settings; None if it was not asked for.
    """

    entrant: Entrant
    tuning: Tuning
    curves: list[Curve]
    cost: Cost | None = None


def scoreboard(
    problem: Problem,
    entrants: Sequence[Entrant],
    *,
    seeds: Sequence[int] = (1, 2, 3),
    steps: int = 200,
    every: int = 10,
    also: Collection[int] = (),
    tuning_steps: int = 50,
    largest: int = 16,
    cost: Callable[[Entrant, Mapping[str, Any]], Cost] | None = None,
    cost_rounds: int = 0,
    conditions: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    save_minutes: float = 5.0,
    progress: bool = True,
) -> list[Score]:
    """Tunes every optimizer, and runs it at its best settings.

    All see the same objective, initial weights and batches in the same order. Tuning runs one
    seed that is not among the reported ones, and goes by the training loss at its last step.

    Args:
      problem: What is trained.
      entrants: Who trains it.
      seeds: Of the reported runs, from 1.
      steps: Of a reported run.
      every: Steps between its measurements.
      also: Further steps that it is measured at.
      tuning_steps: Of a run that tunes.
      largest: As for `tune`: the most settings of one optimizer, but for a larger grid.
      cost: Measures a step of an optimizer at its settings; where it raises RuntimeError the score
        is without.
      cost_rounds: What `cost` measures: a kept cost of fewer rounds, or of another machine, is
        measured again.
      conditions: What else a run depends on: results are kept under it.
      cache: A file of JSON lines; what stands in it is not done again, so that the same call
        continues one that was killed. The run under way is kept in its folder.
      save_minutes: Minutes after which the run under way is kept; 0 for only when a signal comes.
      progress: Whether a progress bar is shown.

    Returns:
      A score for each, in their order.
    """
    known = RunCache(cache)
    planned = sum(_planned(entrant) * tuning_steps + len(seeds) * steps for entrant in entrants)
    bar = ProgressBar(total=planned, disable=not progress)
    about = {"problem": problem.task.name, **(conditions or {})}
    if problem.normalised:
        about["statistics"] = problem.statistics  # runs of before measured with the moving ones

    def once(entrant: Entrant, setting: dict, seed: int, length: int, between: int) -> Curve:
        reported = seed != TUNING_SEED
        key = {**about, **entrant.identity, "setting": setting, "seed": seed}
        key.update(steps=length, every=between)
        between_too = set(also) - set(measured_steps(length, between)) if reported else set()
        if between_too:
            # Runs without any keep the keys that they always had.
            key.update(also=sorted(between_too))
        what = f"seed {seed}" if reported else "tuning"
        bar.set_description(f"{entrant.title} ({setting_text(setting)}), {what}")
        curve = known.curve(key)
        if curve is not None and not {0, length} <= set(curve.steps):
            curve = None  # damaged, or of something else
        if curve is not None and reported and not curve.accuracies:
            curve = None
        before = bar.n
        if curve is None:
            optimizer = entrant.make(setting)
            folder = None if cache is None else Path(cache).parent
            unfinished = Unfinished(folder, key, save_minutes)
            curve = run(
                problem,
                optimizer,
                seed,
                length,
                between,
                also=between_too,
                accuracy=reported,
                on_step=lambda: bar.step(),
                unfinished=unfinished,
            )
            known.add_curve(key, curve)
            unfinished.clear()
            bar.update(length - (bar.n - before))
        else:
            bar.skip(length)
        return curve

    def evaluate(entrant: Entrant, tried: list[dict]) -> Callable[[dict[str, Any]], float]:
        def loss(setting: dict[str, Any]) -> float:
            tried.append(setting)
            if len(tried) > _planned(entrant):
                bar.total += tuning_steps
            curve = once(entrant, setting, TUNING_SEED, tuning_steps, tuning_steps)
            return curve.at(tuning_steps)

        return loss

    def cost_of(entrant: Entrant, setting: dict[str, Any]) -> Cost | None:
        if cost is None:
            return None
        key = {**about, **entrant.identity, "setting": setting, "measured": "cost"}
        found = known.get(key)
        kept = None if found is None else Cost.read(found)
        if kept is None or not kept.serves(cost_rounds):
            bar.set_description(f"{entrant.title}: the cost of a step")
            try:
                kept = cost(entrant, setting)
            except RuntimeError as error:
                # An optimizer that diverges at its best has none.
                bar.write(str(error))
                return None
            known.add(key, dataclasses.asdict(kept))
        return kept

    scores = []
    with bar:
        for entrant in entrants:
            tuning = tune(entrant.axes, evaluate(entrant, []), largest)
            curves = [once(entrant, tuning.best, seed, steps, every) for seed in seeds]
            scores.append(Score(entrant, tuning, curves, cost_of(entrant, tuning.best)))
    return scores


def at_measured_cost(scores: Sequence[Score]) -> list[Score]:
    """Returns the scores with seconds reckoned from the costs of steps.

    The clock of a run counts what else the machine did. A cost was timed in turns with gradients,
    which a disturbance meets as well, so that steps times cost times the seconds of a gradient
    compare, whenever the runs were made. A gradient's are the least that were measured beside any
    of the optimizers: other jobs only add to them.

    Args:
      scores: Of one board. If none has a cost, all are returned as they are; else the seconds of
        one that has none are not a number.
    """
    costs = [score.cost for score in scores if score.cost is not None]
    if not costs:
        return list(scores)
    gradient = min(cost.gradient_seconds for cost in costs)

    def paced(score: Score) -> Score:
        seconds = math.nan if score.cost is None else score.cost.gradients * gradient
        curves = [
            dataclasses.replace(
                curve,
                seconds=[
                    step * seconds if math.isfinite(clock) else clock
                    for step, clock in zip(curve.steps, curve.seconds, strict=True)
                ],
            )
            for curve in score.curves
        ]
        return dataclasses.replace(score, curves=curves)

    return [paced(score) for score in scores]


def _planned(entrant: Entrant) -> int:
    """Returns how many settings the grid of an entrant has."""
    number = 1 if entrant.axes else 0
    for values in entrant.axes.values():
        number *= len(values)
    return number
