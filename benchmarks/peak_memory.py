"""Measures the rise of this process's memory during a piece of code."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from pathlib import Path


def begin() -> float:
    """Resets the peak, which only Linux can.

    Returns:
      The memory in use, in 10⁶ bytes; on other systems the peak so far.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    return _peak()


def end() -> float:
    """Returns the largest memory in use since `begin`, in 10⁶ bytes."""
    try:
        return _status("VmHWM")
    except OSError:
        return _peak()


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"no {field}")
