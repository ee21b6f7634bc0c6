"""Progress bars: the numbers that matter first, and the time that is left."""

from __future__ import annotations

import time
from typing import Any

import tqdm

# The first step traces and compiles, which says nothing of the others; a few more settle the mean.
STEPS_BEFORE_AN_ESTIMATE = 10


class ProgressBar(tqdm.tqdm):
    """A bar like `mlp: loss 2.31, accuracy 9.00%   4%|▍   | 10/250 steps [00:21, 8 min left]`.

    The time left is the mean of the steps after this process' first one times the steps left, from
    the tenth step on.
    """

    def __init__(self, iterable: Any = None, *, unit: str = "step", **kwargs: Any):
        """Takes the arguments of `tqdm.tqdm`."""
        self._shown: dict[str, Any] = {}
        self._first: tuple[float, float] | None = None
        # A bar that is not shown has no `initial` of its own.
        self._before: float = kwargs.get("initial", 0)
        kwargs.setdefault("dynamic_ncols", True)
        ends = kwargs.get("total") is not None or hasattr(iterable, "__len__")
        counted = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}" if ends else "{n_fmt}"
        form = f"{{desc}}: {{shown}}{counted} {{unit}}s [{{elapsed}}{{left}}]"
        super().__init__(iterable, unit=unit, bar_format=form, **kwargs)

    def step(self, number: float = 1, **shown: Any) -> None:
        """Moves on.

        Args:
          number: Steps done.
          **shown: What stands in front, in this order; what was shown before stays.
        """
        self.show(**shown)
        self.update(number)

    def show(self, **shown: Any) -> None:
        """Sets what stands in front, without moving on."""
        self._shown.update(shown)

    def update(self, n: float | None = 1) -> bool | None:
        """Moves on; the clock begins after the first step."""
        moved = super().update(n)
        self.seconds_left()
        return moved

    def skip(self, number: float) -> None:
        """Moves on by what was done before: it says nothing of the time that the rest takes."""
        self._before += number
        self.update(number)

    def seconds_left(self) -> float | None:
        """Returns an estimate; None before the tenth step."""
        done, now = self.n - self._before, time.monotonic()
        if self._first is None and done > 0:
            self._first = done, now
        if self._first is None or self.total is None or self.n >= self.total:
            return None
        if done < STEPS_BEFORE_AN_ESTIMATE:
            return None
        steps, began = self._first
        if done <= steps:
            return None
        return (now - began) / (done - steps) * (self.total - self.n)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar is made of."""
        found = super().format_dict
        left = self.seconds_left()
        numbers = ", ".join(f"{name} {value}" for name, value in self._shown.items())
        found["shown"] = f"{numbers} " if numbers else ""
        # tqdm adds a colon to a description that is set later.
        found["prefix"] = (found["prefix"] or "").removesuffix(": ")
        found["left"] = "" if left is None else f", {duration(left)} left"
        return found


def duration(seconds: float) -> str:
    """Returns a time in words, such as `40 s`, `8 min`, `3 h 20 min` or `2 days 4 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"
