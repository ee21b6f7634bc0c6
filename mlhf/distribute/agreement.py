"""Numbers that all processes must have alike: they are compared, and the first process's taken."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mlhf.distribute import lost_processes
from mlhf.distribute.replicas import Replicas

# Digests have so many bits: sums of their squares are exact in float64 up to a thousand replicas.
_BITS = 16


class Agreement:
    """Makes processes agree on structures of tensors.

    A process that was restarted, or was given other initial weights, thereby goes on with the first
    process's numbers; and rounding, which differs between processors of different kinds, can't
    drive processes apart over many steps.
    """

    def __init__(self, replicas: Replicas) -> None:
        """Sets it up.

        Args:
          replicas: The replicas.
        """
        self._replicas = replicas
        self._compiled: Callable[..., Any] = tf.function(self._agreed, autograph=False)
        self._first: Callable[..., tf.Tensor] = tf.function(self._sent, autograph=False)
        self._count: Callable[..., tf.Tensor] = tf.function(self._counted, autograph=False)

    def __call__(self, compared: Any, others: Any = ()) -> tuple[Any, Any, tf.Tensor]:
        """Returns structures that are the same in all processes.

        Args:
          compared: A structure of tensors. If it is the same in all processes, nothing but a digest
            of it is sent, and it is returned as it is.
          others: Another structure, which is not compared, but sent together with the first.

        Returns:
          Both structures, those of the first process if the first structure differed anywhere, and
          whether it did.
        """
        leaves = tf.nest.flatten((compared, others)), tf.nest.flatten(compared)
        with lost_processes.told():
            agreed, differ = self._compiled(*leaves)
        compared, others = tf.nest.pack_sequence_as((compared, others), agreed)
        return compared, others, differ

    def first(self, value: Any) -> tf.Tensor:
        """Returns the first process's value of a tensor or number, in all processes."""
        value = tf.convert_to_tensor(value)
        if self._replicas.processes == 1:
            return value
        with lost_processes.told():
            return self._first(value)

    def any(self, flag: bool) -> bool:
        """Returns whether a flag is set in any process."""
        if self._replicas.processes == 1:
            return flag
        with lost_processes.told():
            return bool(self._count(tf.constant(flag)) > 0)

    def _counted(self, flag: tf.Tensor) -> tf.Tensor:
        return self._replicas.sum(lambda number: tf.cast(flag, tf.float32))

    def _agreed(
        self, leaves: list[tf.Tensor], compared: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        digest = tf.cast(_digest(compared), tf.float64)
        moments = self._replicas.sum(lambda number: tf.stack([digest, digest * digest]))
        # Exact, so that it is zero only if all are equal, and the same in all processes.
        differ = self._replicas.count * moments[1] != moments[0] * moments[0]
        agreed = tf.cond(
            differ,
            lambda: [self._sent(leaf) for leaf in leaves],
            lambda: [tf.identity(leaf) for leaf in leaves],
        )
        return agreed, differ

    def _sent(self, leaf: tf.Tensor) -> tf.Tensor:
        dtype = tf.int32 if leaf.dtype == tf.bool else leaf.dtype
        numbers = tf.cast(leaf, dtype)

        def on_replica(number: int) -> tf.Tensor:
            # Not a product with zero: values of other processes may not be finite.
            return numbers if number == 0 else tf.zeros_like(numbers)

        return tf.cast(self._replicas.sum(on_replica), leaf.dtype)


def _digest(leaves: list[tf.Tensor]) -> tf.Tensor:
    """Returns a number of a few bits that depends on every bit of tensors, an int64."""
    parts = []
    for place, leaf in enumerate(leaves):
        if leaf.dtype.is_floating:
            leaf = tf.bitcast(leaf, tf.as_dtype(f"int{8 * leaf.dtype.size}"))
        bits = tf.cast(leaf, tf.int64) + place
        # Squares of sums and differences: a sum of integers does not depend on the order.
        mixed = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, 15))
        parts.append(tf.reduce_sum(mixed * (mixed + 2 * place + 1)))
    whole = functools.reduce(tf.add, parts)
    folded = tf.bitwise.bitwise_xor(whole, tf.bitwise.right_shift(whole, _BITS))
    return tf.bitwise.bitwise_and(folded, 2**_BITS - 1)
