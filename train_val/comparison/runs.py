"""One run of an optimizer on a problem, and the file that stores finished runs."""

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

# The batches of seed s begin at number s times this.
BATCHES_A_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Curve:
    """The measurements of one run.

    Attributes:
      steps: The steps at which the training loss was measured, ascending, from 0.
      losses: The loss over the training images at these steps, not augmented, with the regularizer.
      seconds: The seconds of training until these steps, without tracing and measuring.
      accuracies: The accuracies on the test images at these steps; empty if not asked for.
      diverged_at: The first step whose outcome was not finite; None if all were.
      note: The text of the error that ended the run early, if there was one.
    """

    steps: list[int]
    losses: list[float]
    seconds: list[float]
    accuracies: list[float] = dataclasses.field(default_factory=list)
    diverged_at: int | None = None
    note: str | None = None

    def at(self, step: int) -> float:
        """Returns the loss at a step; infinite if it is not finite."""
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
      problem: The problem; batch k of the run is number k + 1000 · seed of its batches.
      optimizer: An optimizer with `init` and `step`.
      seed: The seed of the initial weights, which also says where the batches begin.
      steps: The number of steps.
      every: Steps between measurements.
      also: Further steps to measure at.
      accuracy: Whether the test accuracy is measured too.
      on_step: Called after each step; first once for each step that an earlier command did.
      unfinished: The file that saves the run while it is not finished; None saves nothing.

    Returns:
      The curve. A run that diverges ends there; measurements that it did not reach are NaN.
    """
    store = Unfinished(None, {}) if unfinished is None else unfinished
    under_way = _UnderWay(problem, optimizer, seed, accuracy, store)
    places = measured_steps(steps, every, also)
    for _ in range(under_way.done):
        on_step()
    with store.saving(steps, under_way.done) as saving:
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
    """A run that is not finished: its position, and what has been measured so far."""

    def __init__(
        self, problem: Problem, optimizer: Any, seed: int, accuracy: bool, unfinished: Unfinished
    ) -> None:
        self.problem, self.optimizer, self.accuracy = problem, optimizer, accuracy
        self.unfinished = unfinished
        task = problem.task
        parameters, model_state = task.initialize(seed), task.initial_model_state()
        state = complete(optimizer).init_for(task, parameters)
        begin = Point(0, 0.0, parameters, state, model_state)
        saved = unfinished.find(begin, optimizer)
        self.point = begin if saved is None else saved[0]
        self.curve = Curve([], [], []) if saved is None else Curve(**saved[1])
        self.batches = iter(task.batches(BATCHES_A_SEED * seed + self.done))
        objective = self._objective()
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            # Traced before the clock runs. If this fails, the first step below fails again.
            optimizer.step(objective, self.point.parameters, self.point.state)
        self.next_objective: Any = objective
        if not self.curve.steps:
            self.measure()

    @property
    def done(self) -> int:
        return self.point.done

    def step(self, places: Sequence[int]) -> Curve | None:
        """Takes a step and measures if it is time; returns the curve if the run ended."""
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
            # The loss is from before this step: it is the outcome of the previous one.
            return _ended(self.curve, max(self.done - 1, 1), places, accuracy)
        if self.done in places and not self.measure():
            return _ended(self.curve, self.done, places, accuracy)
        return None

    def measure(self) -> bool:
        """Adds to the curve; returns whether the loss is finite."""
        point, curve = self.point, self.curve
        parameters = complete(self.optimizer).evaluation_parameters(point.parameters, point.state)
        # Moving statistics say more about the steps before than about the current weights.
        state = self.problem.population_state(parameters, point.model_state)
        curve.steps.append(self.done)
        curve.losses.append(self.problem.training_loss(parameters, state))
        curve.seconds.append(self.point.elapsed)
        if self.accuracy:
            curve.accuracies.append(self.problem.accuracy(parameters, state))
        return math.isfinite(curve.losses[-1])

    def keep(self) -> None:
        """Saves the run, so that it can be continued."""
        self.unfinished.keep(self.point, dataclasses.asdict(self.curve), self.optimizer)

    def _objective(self) -> Any:
        return self.problem.task.objective(*next(self.batches), self.point.model_state)


def measured_steps(steps: int, every: int, also: Collection[int] = ()) -> list[int]:
    """Returns the steps, after the start, at which a run is measured, ascending."""
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
    """Stores finished results in a file of JSON lines; a kill can only truncate the last line.

    A line that is damaged or that another version wrote is ignored, and its run is done again.
    """

    def __init__(self, path: str | Path | None) -> None:
        """Reads the file if there is one.

        Args:
          path: The file; None keeps everything in memory.

        Raises:
          DamagedFileError: If a directory stands in its place.
        """
        self._path = None if path is None else Path(path)
        self._known: dict[str, Any] = {}
        self._torn = False
        if self._path is not None and self._path.exists():
            content = run_log.read_lines(self._path)
            self._torn = content.torn
            for line in content.lines:
                # Lines that something else or another version wrote are ignored, not refused.
                if isinstance(line.get("key"), dict):
                    self._known[_key(line["key"])] = line.get("curve", line.get("value"))

    def get(self, key: dict[str, Any]) -> Any:
        """Returns the value stored under a key, or None."""
        return self._known.get(_key(key))

    def add(self, key: dict[str, Any], value: Any) -> None:
        """Stores a structure of JSON under a key; values that are not finite become null."""
        self._known[_key(key)] = value
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "value": without_nan(value)}) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            # A kill may have truncated the last line: begin a new one.
            file.write("\n" + line if self._torn else line)
        self._torn = False

    def curve(self, key: dict[str, Any]) -> Curve | None:
        """Returns the curve stored under a key, or None if there is none or it is damaged."""
        known = self.get(key)
        return known if known is None or isinstance(known, Curve) else _curve(known)

    def add_curve(self, key: dict[str, Any], curve: Curve) -> None:
        """Stores a curve under a key."""
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
    """Returns a structure of JSON with null in the place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _key(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
