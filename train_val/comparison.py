"""Optimizers side by side: the same initial weights and batches, each at its best settings."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlhf import run_log
from train_val.problems import Problem


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer and the settings that it may be run with.

    Attributes:
      name: For tables and pictures.
      make: From one of the settings to an optimizer with `init` and `step`.
      grid: The settings: learning rates, or tuples of numbers. A grid of one is not tuned.
    """

    name: str
    make: Callable[[Any], Any]
    grid: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
      steps: Where the training loss was measured, ascending, from 0.
      losses: The loss over the whole training set there, not augmented.
      seconds: Of training until there; tracing and measuring are left out.
    """

    steps: list[int]
    losses: list[float]
    seconds: list[float]

    def at(self, step: int) -> float:
        """Returns the loss at a step; infinite where it is not finite."""
        loss = self.losses[self.steps.index(step)]
        return loss if math.isfinite(loss) else math.inf


@dataclasses.dataclass(frozen=True)
class Result:
    """A contender's runs at its best settings.

    Attributes:
      name: The contender's.
      setting: The best of its grid, by the mean loss at the last step.
      curves: One a seed, at the best settings.
      best: For each step asked for, the least mean loss over the grid; each may be at another
        setting.
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


def run(problem: Problem, optimizer: Any, seed: int, steps: int, every: int) -> Curve:
    """Trains once.

    Args:
      problem: Batch k is number k + 1000 · seed of its batches.
      optimizer: With `init` and `step`.
      seed: Of the initial weights and of where the batches begin.
      steps: How many.
      every: Steps between measurements.

    Returns:
      The curve; a diverged run's losses are not finite.
    """
    parameters = problem.task.initialize(seed)
    kinds = {} if not hasattr(optimizer, "kinds") else {"kinds": problem.task.variable_kinds()}
    state = optimizer.init(parameters, **kinds)
    batches = iter(problem.task.batches(1000 * seed))
    # Traced before the clock runs.
    inputs, targets = next(batches)
    optimizer.step(problem.task.objective(inputs, targets), parameters, state)
    curve = Curve([0], [problem.training_loss(parameters)], [0.0])
    elapsed = 0.0
    for step in range(1, steps + 1):
        started = time.perf_counter()
        taken = optimizer.step(problem.task.objective(inputs, targets), parameters, state)
        parameters, state = taken.parameters, taken.state
        float(taken.metrics["loss"])
        elapsed += time.perf_counter() - started
        if step % every == 0 or step == steps:
            curve.steps.append(step)
            curve.losses.append(problem.training_loss(parameters))
            curve.seconds.append(elapsed)
            if not math.isfinite(curve.losses[-1]):
                rest = range(step + every, steps + 1, every)
                curve.steps.extend(rest)
                curve.losses.extend(math.nan for _ in rest)
                curve.seconds.extend(math.nan for _ in rest)
                return curve
        inputs, targets = next(batches)
    return curve


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
      cache: A file of JSON lines, one a run; runs that stand in it are not run again.

    Returns:
      A result for each contender.
    """
    known = _Cache(cache)

    def once(contender: Contender, setting: Any, seed: int) -> Curve:
        key = {"name": contender.name, "setting": setting, "seed": seed, "steps": steps}
        key["every"] = every
        curve = known.get(key)
        if curve is None:
            curve = run(problem, contender.make(setting), seed, steps, every)
            known.add(key, curve)
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
        best = {step: min(mean(place, step) for place in curves) for step in report}
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


class _Cache:
    """Runs that are done, in a file that a kill can't damage but for its last line."""

    def __init__(self, path: str | Path | None):
        self._path = None if path is None else Path(path)
        self._known: dict[str, Curve] = {}
        if self._path is not None and self._path.exists():
            for line in run_log.read(self._path):
                self._known[_key(line["key"])] = Curve(**line["curve"])

    def get(self, key: dict[str, Any]) -> Curve | None:
        return self._known.get(_key(key))

    def add(self, key: dict[str, Any], curve: Curve) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "curve": dataclasses.asdict(curve)}) + "\n")


def _key(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _inside(grid: Sequence[Any], winners: set[int]) -> bool:
    """Whether no winner lies at an end of an axis of the grid, axes of one value apart."""
    points = [point if isinstance(point, tuple) else (point,) for point in grid]
    for axis in range(len(points[0])):
        values = sorted({point[axis] for point in points})
        if len(values) > 1 and any(points[i][axis] in (values[0], values[-1]) for i in winners):
            return False
    return True


def table(results: Sequence[Result], report: Sequence[int]) -> str:
    """Returns the results as a Markdown table."""
    head = ["optimizer", "settings", *[f"loss at step {step}" for step in report]]
    head += [f"seconds for {report[-1]} steps"]
    rows = [head, ["---"] * len(head)]
    for result in results:
        seconds = [curve.seconds[curve.steps.index(report[-1])] for curve in result.curves]
        rows.append(
            [
                result.name,
                _text(result.setting) + ("" if result.inside else " (edge of the grid)"),
                *[f"{result.best[step]:.3g}" for step in report],
                f"{np.median(seconds):.2f}",
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def picture(results: Sequence[Result], path: str | Path, title: str) -> None:
    """Draws training loss against steps and against seconds.

    Args:
      results: Of `compare`.
      path: A PNG file.
      title: Above both.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for number, result in enumerate(results):
        color = f"C{number}"
        losses = np.array([curve.losses for curve in result.curves])
        seconds = np.array([curve.seconds for curve in result.curves])
        middle = np.median(losses, 0)
        label = f"{result.name} ({_text(result.setting)})"
        axes[0].fill_between(
            result.curves[0].steps, losses.min(0), losses.max(0), color=color, alpha=0.2, lw=0
        )
        axes[0].plot(result.curves[0].steps, middle, color=color, label=label)
        axes[1].plot(np.median(seconds, 0), middle, color=color, label=label)
    axes[0].set(xlabel="steps", ylabel="loss over the whole training set", yscale="log")
    axes[1].set(xlabel="seconds of training", yscale="log")
    low, high = axes[0].get_ylim()
    for axis in axes:
        axis.grid(alpha=0.3, which="both" if high < 10 * low else "major")
        if high < 10 * low:
            # Within one power of ten its multiples are the only labels.
            axis.yaxis.set_minor_formatter("{x:g}")
    axes[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _text(setting: Any) -> str:
    if isinstance(setting, tuple):
        return ", ".join(f"{value:g}" for value in setting)
    return f"{setting:g}"
