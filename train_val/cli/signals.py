"""Handles Ctrl-C and SIGTERM: the first ends a command in order, the second at once."""

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
# One request to end may arrive twice: from the terminal and from a program that passes it on.
_ONE_REQUEST_SECONDS = 0.25


class Terminated(BaseException):
    """Raised on SIGTERM; like `KeyboardInterrupt`, it is not caught by mistake."""


@contextlib.contextmanager
def attended() -> Iterator[None]:
    """Ends the block by `KeyboardInterrupt` or `Terminated`, and the process at a second signal.

    Python runs its signal handlers only between two of its own instructions, and a step of
    TensorFlow is a single one. Hence a thread that receives signals as they arrive: it acknowledges
    the first one and ends the process at the second. Files are whole whenever that happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    handled = before not in (signal.SIG_IGN, None)
    if handled:
        signal.signal(signal.SIGTERM, _terminate)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(reader,), daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writer)
        listener.join(timeout=1)  # a process that was forked here may hold the other end
        os.close(reader)
        if handled:
            signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


def _listen(reader: int) -> None:
    first: float | None = None
    while numbers := os.read(reader, 64):
        for number in numbers:
            # Ignored signals do not arrive here.
            if number not in _NAMES:
                continue
            now = time.monotonic()
            if first is None:
                first = now
                _say(
                    f"\n{_NAMES[number]}: ending after the step under way, with a checkpoint. Once "
                    "more ends at once.\n"
                )
            elif now - first > _ONE_REQUEST_SECONDS:
                _say("\nEnded at once; the last checkpoint is whole.\n")
                os._exit(128 + number)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
