"""Operations that tangents pass together, as one linear map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class Group(NamedTuple):
    """An operation whose tangent map covers earlier operations too.

    Attributes:
      reads: The tensors whose tangents the map takes, in order.
      absorbed: The names of operations whose tangents are not needed.
      tangent_map: The map from those tangents to that of the operation's first output.
    """

    reads: Sequence[tf.Tensor]
    absorbed: Sequence[str]
    tangent_map: Callable[..., Any]


class Readers:
    """The readers of each tensor, among the operations that tangents pass."""

    def __init__(self, operations: Sequence[tf.Operation], outputs: Sequence[tf.Tensor]) -> None:
        """Collects the readers.

        Args:
          operations: All operations that tangents may pass.
          outputs: The tensors whose tangents are wanted.
        """
        self._wanted = {tensor.ref() for tensor in outputs}
        self._readers: dict[Any, list[tf.Operation]] = {}
        for op in operations:
            for tensor in op.inputs:
                self._readers.setdefault(tensor.ref(), []).append(op)

    def of(self, tensor: tf.Tensor) -> list[tf.Operation]:
        """Returns the operations that read a tensor, repeated if they read it several times."""
        return self._readers.get(tensor.ref(), [])

    def only(self, tensor: tf.Tensor) -> tf.Operation | None:
        """Returns the operation that is a tensor's only reader, if its tangent is not wanted."""
        readers = self.of(tensor)
        return readers[0] if len(readers) == 1 and not self.wanted(tensor) else None

    def wanted(self, tensor: tf.Tensor) -> bool:
        """Whether a tensor is an output, so that its tangent is wanted."""
        return tensor.ref() in self._wanted

    def hidden(self, members: Iterable[tf.Operation], last: tf.Operation) -> list[str]:
        """Returns the members whose tangents are read only by each other and the last one.

        Args:
          members: Operations in the order in which they run.
          last: The last member.

        Returns:
          The names of these members, sorted.
        """
        inside = {last.name}
        for op in reversed(list(members)):
            if op.name == last.name:
                continue
            readers = [reader.name for output in op.outputs for reader in self.of(output)]
            if not any(map(self.wanted, op.outputs)) and inside.issuperset(readers):
                inside.add(op.name)
        return sorted(inside - {last.name})
