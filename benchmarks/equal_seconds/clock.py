"""Processor seconds of a training, without compilation and evaluation, and the errors at them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# The error is measured when the seconds have grown by this factor.
GROWTH = 1.12
_FIRST = 0.25


class Clock:
    """The clock of one run.

    It starts after the first steps, whose compilation is not counted, and stands still while errors
    are measured.

    Attributes:
      points: Pairs (seconds, error) so far.
      budget: The seconds after which the run is over.
    """

    def __init__(self, budget: float, error: Callable[[Any], float]) -> None:
        """Prepares a run.

        Args:
          budget: The seconds after which the run is over.
          error: A function from the parameters to the error.
        """
        self.points: list[tuple[float, float]] = []
        self.budget = budget
        self._error = error
        self._start: float | None = None
        self._next = _FIRST

    @property
    def seconds(self) -> float:
        """The seconds so far, 0 before the first step."""
        return 0.0 if self._start is None else time.process_time() - self._start

    def over(self, parameters: Any) -> bool:
        """Notes that steps were done.

        Args:
          parameters: The parameters after them.

        Returns:
          Whether the seconds are over.
        """
        if self._start is None:
            self._start = time.process_time()
            return False
        seconds = self.seconds
        is_over = seconds >= self.budget
        if seconds >= self._next or is_over:
            self.points.append((seconds, self._error(parameters)))
            self._next = seconds * GROWTH
            self._start = time.process_time() - seconds
        return is_over
