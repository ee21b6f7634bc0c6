"""The allocator of TensorFlow on processors, which is chosen before TensorFlow is imported."""

from __future__ import annotations

import os
import sys

_SWITCH, _LIMIT = "TF_CPU_ALLOCATOR_USE_BFC", "TF_CPU_BFC_MEM_LIMIT_IN_MB"
# What TensorFlow's allocator takes at most unless it is told otherwise.
_USUAL_LIMIT = 1 << 16


def keep_freed_memory() -> bool:
    """Lets TensorFlow keep freed memory for its next tensors (on processors; GPUs always do).

    The C library gives large blocks back to the system, and gets them anew, page by page, at the
    next step: a tenth of the processor's time in a step on the paper's convnet at batch 512. This
    sets the environment variable `TF_CPU_ALLOCATOR_USE_BFC`, unless it is set, for TensorFlow's own
    allocator, and lets that have all memory of the machine. It has to be called before TensorFlow
    is imported; the command lines call it.

    Returns:
      Whether TensorFlow will keep memory: False if it is imported already, or the variable says no.
    """
    if "tensorflow" in sys.modules:
        return False
    os.environ.setdefault(_SWITCH, "1")
    memory = _megabytes()
    if memory > _USUAL_LIMIT:
        os.environ.setdefault(_LIMIT, str(memory))
    return os.environ[_SWITCH].lower() in ("1", "true")


def _megabytes() -> int:
    """Returns the machine's memory, or 0 if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    except (AttributeError, OSError, ValueError):
        return 0
