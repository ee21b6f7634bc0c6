"""The scoreboard: every optimizer is tuned under one budget, then run on other seeds."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlhf.runs.progress import ProgressBar
from train_val.comparison.cost import Cost
from train_val.comparison.runs import Curve, RunCache, measured_steps, run
from train_val.comparison.runs_apart import Request
from train_val.comparison.specifications import Entrant, setting_text
from train_val.comparison.tuning import Tuning, tune
from train_val.comparison.unfinished import Unfinished
from train_val.problems.problem import Problem

# The seed of the runs that tune; reported runs have the seeds 1, 2, ...
TUNING_SEED = 0


@dataclasses.dataclass(frozen=True)
class Score:
    """The results of an optimizer.

    Attributes:
      entrant: The optimizer.
      tuning: How its settings were found.
      curves: A curve for each seed, at its best settings.
      cost: The cost of a step at its best settings; None if it was not asked for.
      over_grid: If tuning ran the reported seeds, the curves of each setting in `tuning.tried`.
    """

    entrant: Entrant
    tuning: Tuning
    curves: list[Curve]
    cost: Cost | None = None
    over_grid: list[list[Curve]] = dataclasses.field(default_factory=list)


def scoreboard(
    problem: Problem,
    entrants: Sequence[Entrant],
    *,
    seeds: Sequence[int] = (1, 2, 3),
    steps: int = 200,
    every: int = 10,
    also: Collection[int] = (),
    tuning_seeds: Sequence[int] = (TUNING_SEED,),
    tuning_steps: int = 50,
    largest: int = 16,
    least: int = 1,
    accuracy: bool = True,
    cost: Callable[[Entrant, Mapping[str, Any]], Cost] | None = None,
    cost_rounds: int = 0,
    conditions: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    save_minutes: float = 5.0,
    progress: bool = True,
    apart: Callable[[Sequence[Request]], Iterable[Curve]] | None = None,
) -> list[Score]:
    """Tunes every optimizer, and runs it at its best settings.

    All see the same objective, initial weights and batches in the same order. By default, tuning
    runs one seed that is not among the reported ones; it compares the mean training loss at the
    last step.

    Args:
      problem: The problem that is trained.
      entrants: The optimizers.
      seeds: Seeds of the reported runs, from 1.
      steps: The length of a reported run.
      every: Steps between two measurements.
      also: Further steps to measure at.
      tuning_seeds: Seeds of the runs that tune. A seed that is also in `seeds` is run once, with
        the length of a reported run.
      tuning_steps: The length of a tuning run on a seed that is not in `seeds`.
      largest: The most settings tried for an optimizer, unless its grid is larger.
      least: The fewest settings tried for an optimizer that has any to tune: once the best lies
        inside, values between it and its neighbours are tried too.
      accuracy: Whether reported runs measure the test accuracy too.
      cost: Measures a step of an optimizer at its settings; if it raises RuntimeError the score
        has no cost.
      cost_rounds: The rounds that `cost` measures: a stored cost of fewer rounds or of another
        machine is measured again.
      conditions: Anything else that runs depend on; it is part of the key of stored results.
      cache: A file of JSON lines whose results are not computed again, so that the same call
        continues one that was killed. The unfinished run is saved in its folder.
      save_minutes: Minutes after which the unfinished run is saved; 0 for only on a signal.
      progress: Whether a progress bar is shown.
      apart: A function that makes runs in other processes, a `RunsApart`: all settings that tuning
        tries next, and all seeds, are made at once. None makes one run after the other here.

    Returns:
      A score for each optimizer, in their order.
    """
    about = {"problem": problem.task.name, **(conditions or {})}
    if problem.normalised:
        about["statistics"] = problem.statistics  # older runs measured with the moving ones
    board = _Board(
        problem=problem,
        seeds=seeds,
        reported=_Length(steps, every, frozenset(also)),
        tuning_seeds=tuning_seeds,
        tuning=_Length(tuning_steps, tuning_steps),
        accuracy=accuracy,
        about=about,
        cache=cache,
        save_minutes=save_minutes,
        apart=apart,
    )
    planned = sum(board.planned(entrant) for entrant in entrants)
    with ProgressBar(total=planned, disable=not progress) as bar:
        board.bar = bar
        scores = []
        for entrant in entrants:
            score = board.score(entrant, largest, least)
            if cost is not None:
                measured = board.cost(entrant, score.tuning.best, cost, cost_rounds)
                score = dataclasses.replace(score, cost=measured)
            scores.append(score)
    return scores


class _Length(NamedTuple):
    """The length of runs, and the steps at which they are measured."""

    steps: int
    every: int
    also: frozenset[int] = frozenset()

    @property
    def apart(self) -> list[int]:
        """The steps of `also` that are not measured anyway."""
        return sorted(self.also - set(measured_steps(self.steps, self.every)))


@dataclasses.dataclass
class _Board:
    """Runs optimizers for `scoreboard`; the fields are its arguments."""

    problem: Problem
    seeds: Sequence[int]
    reported: _Length
    tuning_seeds: Sequence[int]
    tuning: _Length
    accuracy: bool
    about: dict[str, Any]
    cache: str | Path | None
    save_minutes: float
    apart: Callable[[Sequence[Request]], Iterable[Curve]] | None = None
    bar: Any = None

    def __post_init__(self) -> None:
        self.known = RunCache(self.cache)

    def length(self, seed: int) -> _Length:
        return self.reported if seed in self.seeds else self.tuning

    def planned(self, entrant: Entrant) -> int:
        """Returns how many steps the grid and the reported runs of an entrant have together."""
        grid = math.prod(len(values) for values in entrant.axes.values()) if entrant.axes else 0
        tuned = self.tuning_seeds if entrant.axes else ()
        left = [seed for seed in self.seeds if seed not in tuned]
        return grid * self._steps(tuned) + self._steps(left)

    def _steps(self, seeds: Sequence[int]) -> int:
        return sum(self.length(seed).steps for seed in seeds)

    def score(self, entrant: Entrant, largest: int, least: int) -> Score:
        """Tunes an optimizer and runs it on all seeds."""
        grid = math.prod(len(values) for values in entrant.axes.values())
        runs: dict[str, dict[int, Curve]] = {}

        def loss(setting: dict[str, Any]) -> float:
            if len(runs) >= grid:
                self.bar.total += self._steps(self.tuning_seeds)
            curves = {seed: self.run(entrant, setting, seed) for seed in self.tuning_seeds}
            runs[json.dumps(setting)] = curves
            return float(np.mean([c.at(self.length(seed).steps) for seed, c in curves.items()]))

        def prepare(settings: Sequence[dict[str, Any]]) -> None:
            self.ahead(entrant, [(one, seed) for one in settings for seed in self.tuning_seeds])

        tuning = tune(entrant.axes, loss, largest, least, prepare)
        done = runs.get(json.dumps(tuning.best), {})
        self.ahead(entrant, [(tuning.best, seed) for seed in self.seeds if seed not in done])
        curves = [done.get(seed) or self.run(entrant, tuning.best, seed) for seed in self.seeds]
        over_grid = []
        if set(self.seeds) == set(self.tuning_seeds):
            over_grid = [[one[seed] for seed in self.seeds] for one in runs.values()]
        return Score(entrant, tuning, curves, over_grid=over_grid)

    def ahead(self, entrant: Entrant, runs: Sequence[tuple[dict[str, Any], int]]) -> None:
        """Makes the runs of settings and seeds that are not stored, if others can make them."""
        if self.apart is None:
            return
        keys, requests = [], []
        for setting, seed in runs:
            key, request = self.described(entrant, setting, seed)
            if self.stored(entrant, key, request) is None and key not in keys:
                keys.append(key)
                requests.append(request)
        if requests:
            self.bar.set_description(f"{entrant.title}, {len(requests)} runs at once")
            for key, curve in zip(keys, self.apart(requests), strict=True):
                self.known.add_curve(key, curve)

    def described(
        self, entrant: Entrant, setting: dict[str, Any], seed: int
    ) -> tuple[dict[str, Any], Request]:
        """Returns the key that a run is stored under, and what it takes to make it."""
        reported, length = seed in self.seeds, self.length(seed)
        key = {**self.about, **entrant.identity, "setting": setting, "seed": seed}
        key.update(steps=length.steps, every=length.every)
        if length.apart:
            # Runs without such steps have the keys that they always had.
            key.update(also=length.apart)
        also, accuracy = tuple(length.apart), reported and self.accuracy
        return key, Request(entrant.text, setting, seed, length.steps, length.every, also, accuracy)

    def stored(self, entrant: Entrant, key: dict[str, Any], request: Request) -> Curve | None:
        """Returns the curve of a run if it is stored whole."""
        curve = self.known.curve(key)
        if curve is None and not self.accuracy:
            curve = self.known.curve(_key_of_grid_search(entrant, key))
        if curve is not None and not {0, request.steps} <= set(curve.steps):
            curve = None  # damaged, or of another run
        if curve is not None and request.accuracy and not curve.accuracies:
            return None
        return curve

    def run(self, entrant: Entrant, setting: dict[str, Any], seed: int) -> Curve:
        """Returns the curve of one run, which is made unless it is stored."""
        key, request = self.described(entrant, setting, seed)
        what = f"seed {seed}" if seed in self.seeds else "tuning"
        self.bar.set_description(f"{entrant.title} ({setting_text(setting)}), {what}")
        curve = self.stored(entrant, key, request)
        if curve is not None:
            self.bar.skip(request.steps)
            return curve
        before = self.bar.n
        folder = None if self.cache is None else Path(self.cache).parent
        unfinished = Unfinished(folder, key, self.save_minutes)
        curve = run(
            self.problem,
            entrant.optimizer(setting, request.steps),
            seed,
            request.steps,
            request.every,
            also=request.also,
            accuracy=request.accuracy,
            on_step=lambda: self.bar.step(),
            unfinished=unfinished,
        )
        self.known.add_curve(key, curve)
        unfinished.clear()
        self.bar.update(request.steps - (self.bar.n - before))
        return curve

    def cost(
        self,
        entrant: Entrant,
        setting: dict[str, Any],
        measure: Callable[[Entrant, Mapping[str, Any]], Cost],
        rounds: int,
    ) -> Cost | None:
        """Returns what a step costs, which is measured unless it is stored."""
        key = {**self.about, **entrant.identity, "setting": setting, "measured": "cost"}
        stored = self.known.get(key)
        cost = None if stored is None else Cost.read(stored)
        if cost is None or not cost.serves(rounds):
            self.bar.set_description(f"{entrant.title}: the cost of a step")
            try:
                cost = measure(entrant, setting)
            except RuntimeError as error:
                # An optimizer that diverges at its best settings has no cost.
                self.bar.write(str(error))
                return None
            self.known.add(key, dataclasses.asdict(cost))
        return cost


def _key_of_grid_search(entrant: Entrant, key: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the key under which older quickstarts stored a run: a title and bare values."""
    values = list(key["setting"].values()) or [float(entrant.identity.get("learning_rate", 0))]
    older = {name: key[name] for name in ("problem", "seed", "steps", "every")}
    older.update(name=entrant.title, setting=values if len(values) > 1 else values[0])
    weights = entrant.identity.get("weights")
    return older if weights is None else {**older, "identity": weights}


def at_measured_cost(scores: Sequence[Score]) -> list[Score]:
    """Returns the scores with seconds computed from the costs of steps.

    The clock of a run includes whatever else the machine did. A cost was timed alternately with
    gradients, which a disturbance affects too, so that steps times cost times the seconds of a
    gradient can be compared, whenever the runs were made. The seconds of a gradient are the least
    that were measured beside any optimizer, since other jobs only add to them.

    Args:
      scores: The scores of one scoreboard.

    Returns:
      The same scores if none has a cost; else the seconds of a score without a cost are NaN.
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
