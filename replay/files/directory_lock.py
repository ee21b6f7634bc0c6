"""A lock that lets only one process at a time write to a directory."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
import weakref
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK_NAME = "lock"


class DirectoryLock:
    """Holds a directory until the lock is released, collected, or its process ends in any way.

    The lock is the kernel's (`flock`) on a file in the directory, not the existence of that file:
    a kill leaves the file behind and nothing locked. A forked child does not share it. On Windows,
    and on file systems that cannot lock, nothing is locked; the latter gives a warning.
    """

    def __init__(self, directory: Path, holder: str = "replay") -> None:
        """Takes the lock.

        Args:
          directory: An existing directory.
          holder: The kind of its holder, for messages.

        Raises:
          RuntimeError: If another holder, in this process or another, has it.
          OSError: If the directory is not writable.
        """
        self._directory = directory
        path = directory / LOCK_NAME
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, directory, holder)
        except BaseException:
            os.close(descriptor)
            raise
        # The holder's process id only serves the error message: no reason to fail on a full disk,
        # or to overwrite a file of that name with other contents.
        with contextlib.suppress(OSError):
            before = os.pread(descriptor, 21, 0)
            if not before or (len(before) <= 20 and before.isdigit()):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._close = weakref.finalize(self, os.close, descriptor)
        _held.add(self)

    def release(self) -> None:
        """Releases the directory. A second call does nothing."""
        self._close()

    def check(self) -> None:
        """Makes sure that the directory may be written to.

        Raises:
          RuntimeError: If the lock was released, or the process is a fork of the one that took it.
        """
        if not self._close.alive:
            raise RuntimeError(
                f"the replay in {self._directory} was closed, or belongs to the process that this "
                "one was forked from: nothing can be written. Open the directory anew with "
                "PrioritizedReplay.load or PrioritizedReplay(..., directory=...), once no other "
                "process holds it."
            )


def _lock(descriptor: int, directory: Path, kind: str) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace")
        holder = holder if holder.isdecimal() else "unknown"
        raise RuntimeError(
            f"another {kind} uses {directory} (process {holder}, this one is {os.getpid()}). End "
            f"that process or call close() on that {kind}, or choose another directory."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        warnings.warn(
            f"the file system of {directory} has no locks: make sure yourself that no two "
            "processes use this directory at once",
            stacklevel=5,
        )


_held: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _release_in_child() -> None:
    # The kernel's lock belongs to the open file, which a fork shares: left open in a child, it
    # would outlive a killed parent. Closing the child's copy does not unlock the parent's.
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
