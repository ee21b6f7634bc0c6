"""The processes of one training: each takes its part of every batch, and the first one writes."""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow as tf

from mlhf.distribute import DataParallel

# What divides a batch, as flags name it.
STRATEGIES = ("mirrored", "multi_worker")
_ADVICE = (
    'TF_CONFIG=\'{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": '
    '"worker", "index": 0}}\' with the index of this process'
)


def make_strategy(name: str | None) -> Any:
    """Returns the strategy of a command line; call it before any operation of TensorFlow.

    Args:
      name: `"mirrored"` for all devices of this machine, `"multi_worker"` for the cluster that the
        environment variable `TF_CONFIG` describes, None for one device.

    Returns:
      A `tf.distribute` strategy, or None for one device.

    Raises:
      ValueError: If there is no cluster in `TF_CONFIG`.
    """
    if name is None:
        return None
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    try:
        workers = json.loads(os.environ.get("TF_CONFIG", "{}"))["cluster"]
    except (ValueError, LookupError, TypeError):
        workers = None
    if not workers:
        raise ValueError(
            "Expected the environment variable TF_CONFIG to describe a cluster for "
            f"--strategy=multi_worker, got {os.environ.get('TF_CONFIG')!r}: set {_ADVICE}."
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


def described(parallel: DataParallel) -> str:
    """Returns a sentence about the replicas that batches are divided among."""
    count = parallel.strategy.num_replicas_in_sync
    if count == 1:
        return f"--strategy found one device, {parallel.strategy.extended.worker_devices[0]}."
    where = f"{parallel.processes} processes" if parallel.processes > 1 else "one process"
    return f"Each batch is divided among {count} replicas in {where}."


class Processes:
    """What the processes of a training share; a training on one device has one process."""

    def __init__(self, optimizer: Any) -> None:
        """Sets it up.

        Args:
          optimizer: An optimizer; an `mlhf.distribute.DataParallel` knows of other processes.
        """
        self._parallel = optimizer if isinstance(optimizer, DataParallel) else None
        self.optimizer_name = type(
            optimizer if self._parallel is None else self._parallel.optimizer
        ).__name__

    @property
    def is_first(self) -> bool:
        """Whether this process is the one to write files and reports."""
        return self._parallel is None or self._parallel.process == 0

    @property
    def are_several(self) -> bool:
        """Whether there are others."""
        return self._parallel is not None and self._parallel.processes > 1

    def part(self, batch: Any) -> Any:
        """Returns this process's part of a batch, a structure of tensors."""
        if self._parallel is None or not self.are_several:
            return batch
        number, of = self._parallel.process, self._parallel.processes
        size = tf.nest.flatten(batch)[0].shape[0]
        begin, end = number * size // of, (number + 1) * size // of
        return tf.nest.map_structure(lambda tensor: tensor[begin:end], batch)

    def of_first(self, numbers: list[int]) -> list[int]:
        """Returns the first process's numbers; every process has to call it."""
        if self._parallel is None or not self.are_several:
            return numbers
        values = self._parallel.from_first_process(tf.constant(numbers, tf.int64))
        return [int(value) for value in values]

    def in_any(self, flag: bool) -> bool:
        """Returns whether a flag is set in any process; every process has to call it."""
        if self._parallel is None or not self.are_several:
            return flag
        return self._parallel.in_any_process(flag)
