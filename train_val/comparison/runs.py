"""One run of an optimizer on a problem, and the file that keeps runs that are done."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlhf.optimizers.protocol import complete
from mlhf.optimizers.step import is_failed_factorization
from mlhf.runs import run_log
from train_val.comparison.unfinished import Point, Unfinished
from train_val.problems.problem import Problem

# Batches of seed s begin at number s times this.
BATCHES_A_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
      steps: Where the training loss was measured, ascending, from 0.
      losses: The loss over the training images there, not augmented, with the regularizer.
      seconds: Of training until there; tracing and measuring are left out.
      accuracies: On the test images there; empty where they were not asked for.
      diverged_at: The first step whose outcome was not finite; None if all were.
      note: Why it ended early, in the words of the error, if there was one.
    """

    steps: list[int]
    losses: list[float]
    seconds: list[float]
    accuracies: list[float] = dataclasses.field(default_factory=list)
    diverged_at: int | None = None
    note: str | None = None

    def at(self, step: int) -> float:
        """Returns the loss at a step; infinite where it is not finite."""
        loss = self.losses[self.steps.index(step)]
        return loss if math.isfinite(loss) else math.inf


def run(
    problem: Problem,
    optimizer: Any,
    seed: int,
    steps: int,
    every: int,
    *,
    also: Collection[int] = (),
    accuracy: bool = False,
    on_step: Callable[[], None] = lambda: None,
    unfinished: Unfinished | None = None,
) -> Curve:
    """Trains once.

    Args:
      problem: Batch k is number k + 1000 · seed of its batches.
      optimizer: With `init` and `step`.
      seed: Of the initial weights and of where the batches begin.
      steps: How many.
      every: Steps between measurements.
      also: Further steps to measure at.
      accuracy: Whether the test accuracy is measured too.
      on_step: Called after each step; after all that an earlier command did, first.
      unfinished: Where the run is kept while it is under way, and continued from.

    Returns:
      The curve. A run that diverges ends there; what it did not measure is not a number.
    """
    kept = Unfinished(None, {}) if unfinished is None else unfinished
    under_way = _UnderWay(problem, optimizer, seed, accuracy, kept)
    places = measured_steps(steps, every, also)
    for _ in range(under_way.done):
        on_step()
    with kept.saving(steps, under_way.done) as saving:
        while under_way.done < steps and not saving.stopping:
            ended = under_way.step(places)
            if ended is not None:
                return ended
            on_step()
            if under_way.done < steps:
                saving.after(under_way.done, under_way.keep)
        if under_way.done < steps:
            saving.finish(under_way.done, under_way.keep)
    return under_way.curve


class _UnderWay:
    """A run: where it stands, and what was measured on the way."""

    def __init__(self, problem, optimizer, seed, accuracy, unfinished) -> None:
        self.problem, self.optimizer, self.accuracy = problem, optimizer, accuracy
        self.unfinished = unfinished
        task = problem.task
        parameters, model_state = task.initialize(seed), task.initial_model_state()
        state = complete(optimizer).init_for(task, parameters)
        begin = Point(0, 0.0, parameters, state, model_state)
        found = unfinished.find(begin, optimizer)
        self.point = begin if found is None else found[0]
        self.curve = Curve([], [], []) if found is None else Curve(**found[1])
        self.batches = iter(task.batches(BATCHES_A_SEED * seed + self.done))
        objective = self._objective()
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            # Traced before the clock runs. What fails fails again below, as the first step.
            optimizer.step(objective, self.point.parameters, self.point.state)
        self.next_objective: Any = objective
        if not self.curve.steps:
            self.measure()

    @property
    def done(self) -> int:
        return self.point.done

    def step(self, places: Sequence[int]) -> Curve | None:
        """Takes a step and measures where it is time; returns the curve of a run that ended."""
        point, accuracy = self.point, self.accuracy
        objective = self._objective() if self.next_objective is None else self.next_objective
        self.next_objective = None
        started = time.perf_counter()
        try:
            taken = self.optimizer.step(objective, point.parameters, point.state)
            loss = float(taken.metrics["loss"])
        except tf.errors.InvalidArgumentError as error:
            if not is_failed_factorization(error):
                raise
            note = str(error).splitlines()[0]
            return _ended(self.curve, self.done + 1, places, accuracy, note)
        model_state = () if taken.model_state is None else taken.model_state
        elapsed = point.elapsed + time.perf_counter() - started
        self.point = Point(point.done + 1, elapsed, taken.parameters, taken.state, model_state)
        if not math.isfinite(loss):
            # The loss stands before the step: it is the outcome of the step before.
            return _ended(self.curve, max(self.done - 1, 1), places, accuracy)
        if self.done in places and not self.measure():
            return _ended(self.curve, self.done, places, accuracy)
        return None

    def measure(self) -> bool:
        """Adds to the curve; returns whether the loss is finite."""
        parameters, curve = self.point.parameters, self.curve
        # Moving statistics say more of the steps before than of where the weights are.
        state = self.problem.population_state(parameters, self.point.model_state)
        curve.steps.append(self.done)
        curve.losses.append(self.problem.training_loss(parameters, state))
        curve.seconds.append(self.point.elapsed)
        if self.accuracy:
            curve.accuracies.append(self.problem.accuracy(parameters, state))
        return math.isfinite(curve.losses[-1])

    def keep(self) -> None:
        """Keeps the run, to be continued."""
        self.unfinished.keep(self.point, dataclasses.asdict(self.curve), self.optimizer)

    def _objective(self) -> Any:
        return self.problem.task.objective(*next(self.batches), self.point.model_state)


def measured_steps(steps: int, every: int, also: Collection[int] = ()) -> list[int]:
    """Returns the steps after the start that a run is measured at, ascending."""
    return sorted({*range(every, steps, every), *(step for step in also if step <= steps), steps})


def _ended(
    curve: Curve, at: int, places: Sequence[int], accuracy: bool, note: str | None = None
) -> Curve:
    """Returns a diverged run's curve, filled up so that all curves have the same steps."""
    for step in places:
        if step not in curve.steps:
            curve.steps.append(step)
            curve.losses.append(math.nan)
            curve.seconds.append(math.nan)
            if accuracy:
                curve.accuracies.append(math.nan)
    return dataclasses.replace(curve, diverged_at=at, note=note)


class RunCache:
    """Results that are done, in a file of JSON lines of which a kill can only cut the last short.

    A line that is damaged, or that another version wrote, counts as not there: it is done again.
    """

    def __init__(self, path: str | Path | None) -> None:
        """Reads what there is.

        Args:
          path: The file; None keeps all in memory.

        Raises:
          DamagedFileError: If a directory stands in its place.
        """
        self._path = None if path is None else Path(path)
        self._known: dict[str, Any] = {}
        self._torn = False
        if self._path is not None and self._path.exists():
            found = run_log.read_lines(self._path)
            self._torn = found.torn
            for line in found.lines:
                # What something else or another version wrote is done again, not refused.
                if isinstance(line.get("key"), dict):
                    self._known[_key(line["key"])] = line.get("curve", line.get("value"))

    def get(self, key: dict[str, Any]) -> Any:
        """Returns what was kept under a key, or None."""
        return self._known.get(_key(key))

    def add(self, key: dict[str, Any], value: Any) -> None:
        """Keeps a structure of JSON under a key; what is not finite becomes null."""
        self._known[_key(key)] = value
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "value": without_nan(value)}) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            # A kill may have cut the last line short: what follows is a line of its own.
            file.write("\n" + line if self._torn else line)
        self._torn = False

    def curve(self, key: dict[str, Any]) -> Curve | None:
        """Returns the curve that was kept under a key, or None where that is none or damaged."""
        known = self.get(key)
        return known if known is None or isinstance(known, Curve) else _curve(known)

    def add_curve(self, key: dict[str, Any], curve: Curve) -> None:
        """Keeps a curve."""
        self.add(key, dataclasses.asdict(curve))


def _curve(known: Any) -> Curve | None:
    """Returns the curve that a structure of JSON describes; None if it describes none."""
    try:
        lists = {
            name: [math.nan if value is None else float(value) for value in known.get(name, [])]
            for name in ("losses", "seconds", "accuracies")
        }
        curve = Curve(**{**known, **lists})
        measured = len(curve.steps)
        at, note = curve.diverged_at, curve.note
        fits = (
            all(isinstance(step, int) for step in curve.steps)
            and len(curve.losses) == len(curve.seconds) == measured
            and len(curve.accuracies) in (0, measured)
            and (at is None or isinstance(at, int))
            and (note is None or isinstance(note, str))
        )
    except (TypeError, ValueError, AttributeError):
        return None
    return curve if fits else None


def without_nan(value: Any) -> Any:
    """Returns a structure of JSON with null where a number is not finite."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _key(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
