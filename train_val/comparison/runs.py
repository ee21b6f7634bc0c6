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

from mlhf import run_log
from mlhf.step import is_failed_factorization
from train_val.problems import Problem

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
      on_step: Called after each step.

    Returns:
      The curve. A run that diverges ends there; what it did not measure is not a number.
    """
    task = problem.task
    parameters, model_state = task.initialize(seed), task.initial_model_state()
    kinds = {} if not hasattr(optimizer, "kinds") else {"kinds": task.variable_kinds()}
    state = optimizer.init(parameters, **kinds)
    batches = iter(task.batches(BATCHES_A_SEED * seed))
    inputs, targets = next(batches)
    with contextlib.suppress(tf.errors.InvalidArgumentError):
        # Traced before the clock runs. What fails fails again below, as the first step.
        optimizer.step(task.objective(inputs, targets, model_state), parameters, state)
    curve = Curve([], [], [])
    elapsed = 0.0

    def measured(step: int) -> bool:
        # Moving statistics say more of the steps before than of where the weights are.
        state = problem.population_state(parameters, model_state)
        curve.steps.append(step)
        curve.losses.append(problem.training_loss(parameters, state))
        curve.seconds.append(elapsed)
        if accuracy:
            curve.accuracies.append(problem.accuracy(parameters, state))
        return math.isfinite(curve.losses[-1])

    places = measured_steps(steps, every, also)
    measured(0)
    for step in range(1, steps + 1):
        started = time.perf_counter()
        try:
            objective = task.objective(inputs, targets, model_state)
            taken = optimizer.step(objective, parameters, state)
            loss = float(taken.metrics["loss"])
        except tf.errors.InvalidArgumentError as error:
            if not is_failed_factorization(error):
                raise
            return _ended(curve, step, places, accuracy, str(error).splitlines()[0])
        elapsed += time.perf_counter() - started
        parameters, state = taken.parameters, taken.state
        model_state = () if taken.model_state is None else taken.model_state
        if not math.isfinite(loss):
            # The loss stands before the step: it is the outcome of the step before.
            return _ended(curve, max(step - 1, 1), places, accuracy)
        if step in places and not measured(step):
            return _ended(curve, step, places, accuracy)
        on_step()
        if step < steps:
            inputs, targets = next(batches)
    return curve


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

    def __init__(self, path: str | Path | None):
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
