"""What a process is told when another one is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

# What TensorFlow says of every collective after the first one that failed.
_ABORTED = "Collective ops is aborted"


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turns the failure of a collective into one sentence.

    Yields:
      Nothing.

    Raises:
      ConnectionError: If another process has ended or can't be reached.
    """
    try:
        yield
    except Exception as error:
        if not _is_loss(error):
            raise
        text = str(error)
        reason = text.partition(_ABORTED + " by: ")[2].partition("\n")[0]
        raise ConnectionError(
            "Expected all processes of the cluster to take every step together, lost one of them"
            f"{f' ({reason})' if reason else ''}: see why it ended, and start all of them again; a "
            "run with a checkpoint continues from it."
        ) from error


def _is_loss(error: Exception) -> bool:
    aborted = isinstance(error, tf.errors.OpError) and _ABORTED in str(error)
    return aborted or isinstance(error, tf.errors.UnavailableError)
