"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from typing import BinaryIO

_SUFFIX = ".replacing.tmp"


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file for writing that takes the place of `path` when the block ends.

    The bytes go to a temporary file in the same folder. At the end of the block it is flushed to
    the disk, renamed over `path`, and the folder is flushed too. A reader of `path`, at any
    moment and after any crash, finds all of the former file or all of the new one.

    If the block or the disk fails, the temporary file is removed and `path` stays as it was. Only
    a kill leaves a temporary file behind: see `remove_temporary_files`.

    Args:
      path: The file to create or replace. Its folder must exist.

    Yields:
      A binary file, open for writing.

    Raises:
      OSError: If the file cannot be written (for example `errno.ENOSPC`, a full disk). The
        message names the file and says what happened to it.
    """
    target = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(target)
    # Not `tempfile`, whose files are readable by their owner only, whatever the umask says.
    temporary = os.path.join(folder, f".{name}.{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")
    try:
        with open(temporary, "xb") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                # Unlinked before it is closed: closing may fail once more on a full disk.
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        _flush_folder(folder)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, _explain(error, folder), target) from error


def remove_temporary_files(folder: str | os.PathLike[str]) -> int:
    """Removes the temporary files that killed processes left behind in `replace_file`.

    Call it only while no other process writes to the folder.

    Args:
      folder: The folder to clean; its subfolders are left alone.

    Returns:
      The number of files removed.

    Raises:
      OSError: If the folder cannot be read or a file cannot be removed.
    """
    with os.scandir(folder) as entries:
        leftovers = [
            entry.path
            for entry in entries
            if entry.name.startswith(".") and entry.name.endswith(_SUFFIX)
        ]
    for leftover in leftovers:
        os.unlink(leftover)
    return len(leftovers)


def _flush_folder(folder: str) -> None:
    """Makes a rename survive a power failure, where the file system can promise that."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows does not open folders
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not know the call; the file itself is in place by now.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _explain(error: OSError, folder: str) -> str:
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(folder).free / 1e6
            return (
                f"the disk is full ({free:.1f} MB free), the file was not written and what stood "
                "in its place is unchanged. Free some space and try again"
            )
    if error.errno == errno.EISDIR:
        return "a directory stands in the file's place. Move it away, and try again"
    return (
        f"the file could not be written ({error.strerror}). Check that its folder exists, that "
        "you may write there and that the disk is sound, then try again"
    )
