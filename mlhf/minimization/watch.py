"""What a minimization watches after every step: its history, its best point, when it stops."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlhf.checks.arguments import check_count, check_number
from mlhf.runs.progress import ProgressBar

# What ended a minimization, by status.
MESSAGES = {
    0: "The gradient's norm fell below tolerance times its first value.",
    1: "The loss fell below the target.",
    2: "The steps asked for are done.",
    3: "The seconds asked for are over.",
    4: "The callback asked to stop.",
    5: "The method finds no further decrease.",
    6: "The loss is no longer finite.",
    7: "The minimization was interrupted.",
}
TOLERANCE, TARGET, STEPS, SECONDS, CALLBACK, STALLED, NOT_FINITE, INTERRUPTED = MESSAGES

Callback = Callable[[int, Any, dict[str, float]], Any]


class Interrupted(Exception):
    """Raised inside a foreign loop to end it."""


@dataclasses.dataclass(frozen=True)
class StopRules:
    """When a minimization stops; None for never.

    Attributes:
      steps: The largest number of steps.
      seconds: The largest number of seconds, compilation included.
      tolerance: The share of the first gradient's norm at which it stops.
      target: The loss at which it stops.
    """

    steps: int | None = None
    seconds: float | None = None
    tolerance: float | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_count("steps", self.steps)
        if self.seconds is not None:
            check_number("seconds", self.seconds, above=0)
        if self.tolerance is not None:
            check_number("tolerance", self.tolerance, at_least=0)
        if self.target is not None:
            check_number("target", self.target)
        if self.steps is None and self.seconds is None:
            raise ValueError(
                "Expected steps= or seconds=, the largest number of either, got neither: a "
                "tolerance or target may never be reached."
            )


class Watch:
    """Notes every step and says when to stop.

    Attributes:
      steps: The number of steps done.
      status: What ended the minimization; None while it goes on.
      best: The lowest loss, with the parameters that have it.
    """

    def __init__(self, rules: StopRules, callback: Callback | None, progress: bool) -> None:
        """Starts the clock.

        Args:
          rules: The stop rules.
          callback: A function `(step, parameters, metrics)` called after each step; a true value
            stops.
          progress: Whether a progress bar is shown.
        """
        self.steps = 0
        self.status: int | None = None
        self.best: tuple[float, Any] = (math.inf, None)
        self._rules, self._callback = rules, callback
        self._rows: list[dict[str, float]] = []
        self._first_norm: float | None = None
        self._start = time.monotonic()
        self._bar = ProgressBar(total=rules.steps, disable=not progress, desc="minimize")

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()

    @property
    def seconds(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self._start

    @property
    def steps_left(self) -> int | None:
        """The number of steps that may still be taken; None for any."""
        return None if self._rules.steps is None else self._rules.steps - self.steps

    def part(self, share: float | None) -> Callable[[], bool]:
        """Returns a function that says whether a share of the budget is used up; None for all."""
        steps, seconds = self._rules.steps, self._rules.seconds

        def is_over() -> bool:
            if self.status is not None:
                return True
            if share is None:
                return False
            late = seconds is not None and self.seconds >= share * seconds
            return late or (steps is not None and self.steps >= max(1, round(share * steps)))

        return is_over

    def note(
        self, before: Any, after: Any, metrics: Mapping[str, Any], is_sample: bool = False
    ) -> bool:
        """Notes a step.

        Args:
          before: The parameters that the metrics' loss belongs to.
          after: The parameters after the step.
          metrics: Scalars, `loss` among them.
          is_sample: Whether they are those of a sample of the examples, whose loss is neither the
            lowest nor the one that was asked for.

        Returns:
          Whether to stop.
        """
        row = {name: float(value) for name, value in metrics.items()}
        self.steps += 1
        loss, norm = row["loss"], row.get("gradient_norm")
        self._rows.append({**row, "seconds": self.seconds})
        if loss < self.best[0] and not is_sample:
            self.best = loss, before
        self._bar.step(loss=f"{loss:.6g}")
        rules = self._rules
        if norm is not None and self._first_norm is None:
            self._first_norm = norm
        if self._callback is not None and self._callback(self.steps, after, row):
            self.status = CALLBACK
        if rules.steps is not None and self.steps >= rules.steps:
            self.status = STEPS
        if rules.seconds is not None and self.seconds >= rules.seconds:
            self.status = SECONDS
        first = self._first_norm
        small = rules.tolerance is not None and norm is not None and first is not None
        if small and not is_sample and norm <= rules.tolerance * first:  # type: ignore[operator]
            self.status = TOLERANCE
        if rules.target is not None and not is_sample and loss <= rules.target:
            self.status = TARGET
        if not math.isfinite(loss):
            self.status = NOT_FINITE
        return self.status is not None

    def history(self) -> dict[str, np.ndarray]:
        """Returns each metric as an array with one number per step; NaN where there is none."""
        names = dict.fromkeys(name for row in self._rows for name in row)
        return {name: np.array([row.get(name, math.nan) for row in self._rows]) for name in names}

    def is_success(self) -> bool:
        """Returns whether it ended as asked: by its goal, or by its budget if there was no goal."""
        goal = self._rules.tolerance is not None or self._rules.target is not None
        return self.status in ((TOLERANCE, TARGET) if goal else (STEPS, SECONDS, CALLBACK, STALLED))
