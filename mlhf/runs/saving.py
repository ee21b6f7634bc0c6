"""When a long run saves: by steps, by minutes, and when a signal ends it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from mlhf.checks.arguments import check_count, check_number

# What ends a run: Ctrl-C, and what `kill` and job schedulers send.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Saving:
    """Calls a run's `save` so often that a kill costs only minutes, and before a signal ends it.

        with Saving(save_steps, save_minutes) as saving:
            while done < steps and not saving.stopping:
                ...  # a step
                saving.after(done, save, last=done == steps)
            saving.finish(done, save)

    Within the block the first SIGINT or SIGTERM only sets `stopping`: the current step is finished
    and saved, and the block ends with the signal's usual effect (`KeyboardInterrupt`, the program's
    own handler, or the end of the process with status 143). A second signal has that effect at
    once. Signals that the program ignores stay ignored; in a thread other than the main one none
    are caught.
    """

    def __init__(
        self,
        every: int,
        minutes: float = 5.0,
        *,
        done: int = 0,
        signals: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Sets the policy.

        Args:
          every: The number of steps from one save to the next.
          minutes: The minutes from one save to the next, if they are over first; 0 for never.
          done: The number of steps that are saved already.
          signals: Whether to wait for signals; not needed if there is nothing to save.
          clock: A function that returns seconds, counted from any time.

        Raises:
          ValueError: If a number makes no sense.
        """
        self._every = check_count("save_steps", every)
        self._seconds = 60 * check_number("save_minutes", minutes, at_least=0)
        self._saved, self._signals, self._clock = done, signals, clock
        self._last = clock()
        self._before: dict[int, Any] = {}
        self._came: int | None = None

    @property
    def stopping(self) -> bool:
        """Whether a signal came."""
        return self._came is not None

    def after(self, done: int, save: Callable[[], None], last: bool = False) -> None:
        """Saves after a step, if it is time.

        Args:
          done: The number of steps done.
          save: The function that saves the run.
          last: Whether this was the last step.
        """
        late = self._seconds > 0 and self._clock() - self._last >= self._seconds
        if last or self.stopping or late or done % self._every == 0:
            save()
            self._saved, self._last = done, self._clock()

    def finish(self, done: int, save: Callable[[], None]) -> None:
        """Saves what is not saved yet, after the last step."""
        if done != self._saved:
            save()
            self._saved = done

    def __enter__(self) -> Saving:
        self._last = self._clock()
        for number in SIGNALS if self._signals else ():
            before = signal.getsignal(number)
            if before in (signal.SIG_IGN, None):
                continue
            try:
                signal.signal(number, self._note)
            except ValueError:
                # Only the main thread can handle signals.
                return self
            self._before[number] = before
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        if error is None and self._came is not None:
            self._obey(self._came, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came is not None:
            self._restore()
            self._obey(number, frame)
        self._came = number

    def _restore(self) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, before)

    def _obey(self, number: int, frame: FrameType | None) -> None:
        before = self._before.get(number)
        if callable(before):
            before(number, frame)
        else:
            # An exception, not the signal: files are closed and locks released on the way out.
            raise SystemExit(128 + number)
