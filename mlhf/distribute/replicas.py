"""The replicas of a `tf.distribute` strategy: which are this process's, and sums over all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mlhf.checks.structures import kind

# One process with several devices; one process on each of several machines; and for trying out.
_STRATEGIES = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.OneDeviceStrategy,
)


class Replicas:
    """The replicas among which a batch is divided.

    A process runs the replicas of its own devices. What stands outside of `run` and `sum` every
    process computes by itself, from the same numbers.

    Attributes:
      strategy: The strategy.
      count: The number of replicas in all processes.
      own: The numbers of this process's replicas, in their order.
      processes: The number of processes.
    """

    def __init__(self, strategy: Any) -> None:
        """Finds the replicas.

        Args:
          strategy: A `tf.distribute` strategy that keeps its replicas in step.

        Raises:
          TypeError: If it is anything else.
        """
        if not isinstance(strategy, _STRATEGIES):
            raise TypeError(
                "Expected a tf.distribute.MirroredStrategy or MultiWorkerMirroredStrategy, whose "
                f"replicas take every step together, got {kind(strategy)}."
            )
        self.strategy = strategy
        self.count: int = strategy.num_replicas_in_sync
        self.own: list[int] = []
        # Traced only, since TensorFlow warns of replicas that run eagerly.
        tf.function(lambda: self.run(self.own.append), autograph=False).get_concrete_function()
        self.own.sort()
        self.processes = self.count // len(self.own)

    @property
    def is_first_process(self) -> bool:
        """Whether this process has the first replica: it is the one to write files."""
        return 0 in self.own

    def run(self, function: Callable[[int], Any]) -> Any:
        """Calls a function of a replica's number on each of this process's replicas.

        Args:
          function: A function that returns a structure of tensors.

        Returns:
          The results, as `strategy.run` returns them.
        """
        return self.strategy.run(
            tf.autograph.experimental.do_not_convert(lambda: function(_number()))
        )

    def sum(self, function: Callable[[int], tf.Tensor]) -> tf.Tensor:
        """Returns the sum over all replicas, the same in every process, by one collective.

        Args:
          function: A function of a replica's number that returns a tensor, of the same shape on
            all replicas.
        """
        return self.strategy.reduce("SUM", self.run(function), axis=None)


def _number() -> int:
    """Returns the number of the replica that is running."""
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    return int(tf.get_static_value(number) if tf.is_tensor(number) else number)
