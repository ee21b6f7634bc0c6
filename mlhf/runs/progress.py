"""Progress bars: the numbers that matter first, and the time that is left."""

from __future__ import annotations

import time
from typing import Any

import tqdm

# The first step traces and compiles, which tells nothing about the others; the mean needs a few.
STEPS_BEFORE_AN_ESTIMATE = 10


class ProgressBar(tqdm.tqdm):
    """A bar like `mlp: loss 2.31, accuracy 9.00%   4%|▍   | 10/250 steps [00:21, 8 min left]`.

    From the tenth step on it shows the time left: the mean time of this process' steps after its
    first, times the number of steps left.
    """

    def __init__(self, iterable: Any = None, *, unit: str = "step", **kwargs: Any) -> None:
        """Takes the arguments of `tqdm.tqdm`."""
        self._shown: dict[str, Any] = {}
        self._first: tuple[float, float] | None = None
        # A disabled bar does not keep `initial` itself.
        self._before: float = kwargs.get("initial", 0)
        kwargs.setdefault("dynamic_ncols", True)
        ends = kwargs.get("total") is not None or hasattr(iterable, "__len__")
        counted = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}" if ends else "{n_fmt}"
        form = f"{{desc}}: {{shown}}{counted} {{unit}}s [{{elapsed}}{{left}}]"
        super().__init__(iterable, unit=unit, bar_format=form, **kwargs)

    def step(self, number: float = 1, **shown: Any) -> None:
        """Moves on.

        Args:
          number: The number of steps done.
          **shown: Values to show in front, in this order; earlier ones stay.
        """
        self.show(**shown)
        self.update(number)

    def show(self, **shown: Any) -> None:
        """Sets values to show in front, without moving on."""
        self._shown.update(shown)

    def update(self, n: float | None = 1) -> bool | None:
        """Moves on; the clock begins after the first step."""
        moved = super().update(n)
        self.seconds_left()
        return moved

    def skip(self, number: float) -> None:
        """Moves on by steps done earlier, which do not count for the time left."""
        self._before += number
        self.update(number)

    def seconds_left(self) -> float | None:
        """Returns an estimate of the time left; None before the tenth step."""
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
        """The values that the bar is formatted from."""
        values = super().format_dict
        left = self.seconds_left()
        numbers = ", ".join(f"{name} {value}" for name, value in self._shown.items())
        values["shown"] = f"{numbers} " if numbers else ""
        # tqdm adds a colon to a description that is set later.
        values["prefix"] = (values["prefix"] or "").removesuffix(": ")
        values["left"] = "" if left is None else f", {duration(left)} left"
        return values


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
