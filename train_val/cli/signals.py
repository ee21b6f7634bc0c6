"""Ctrl-C and SIGTERM for commands: the first ends them in order, the second at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

_NAMES = {int(signal.SIGINT): "Ctrl-C", int(signal.SIGTERM): "SIGTERM"}
# One wish to end may come twice: from the terminal and from a program that passes it on.
_ONE_WISH_SECONDS = 0.25


class Terminated(BaseException):
    """SIGTERM came; like `KeyboardInterrupt`, nobody catches it by mistake."""


@contextlib.contextmanager
def attended() -> Iterator[None]:
    """Ends the block by `KeyboardInterrupt` or `Terminated`, the process at a second signal.

    Python tells its handlers of a signal between two of its own instructions only, and a step of
    TensorFlow is one. Hence a thread that hears of signals as they come: it says that the first one
    is known, and ends the process at the second. Files are whole whenever that is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    ours = before not in (signal.SIG_IGN, None)
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    known = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(reader,), daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(known)
        os.close(writer)
        listener.join(timeout=1)  # a process that was forked here may hold the other end
        os.close(reader)
        if ours:
            signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


def _listen(reader: int) -> None:
    first: float | None = None
    while numbers := os.read(reader, 64):
        for number in numbers:
            # Ignored ones don't come here.
            if number not in _NAMES:
                continue
            now = time.monotonic()
            if first is None:
                first = now
                _say(
                    f"\n{_NAMES[number]}: ending after the step under way, with a checkpoint. Once "
                    "more ends at once.\n"
                )
            elif now - first > _ONE_WISH_SECONDS:
                _say("\nEnded at once; the last checkpoint is whole.\n")
                os._exit(128 + number)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
