"""Operations that tangents pass together, as one linear map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class Group(NamedTuple):
    """An operation, and those before it whose part its map takes over.

    Attributes:
      reads: The tensors whose tangents the map takes, in order.
      absorbed: Names of the operations whose tangents nobody needs.
      tangent_map: From those tangents to that of the operation's first output.
    """

    reads: Sequence[tf.Tensor]
    absorbed: Sequence[str]
    tangent_map: Callable[..., Any]


class Readers:
    """Which operations read a tensor, of those that tangents pass."""

    def __init__(self, operations: Sequence[tf.Operation], outputs: Sequence[tf.Tensor]):
        """Looks at all of them once.

        Args:
          operations: All that tangents may pass.
          outputs: Whose tangents are wanted.
        """
        self._wanted = {tensor.ref() for tensor in outputs}
        self._readers: dict[Any, list[tf.Operation]] = {}
        for op in operations:
            for tensor in op.inputs:
                self._readers.setdefault(tensor.ref(), []).append(op)

    def of(self, tensor: tf.Tensor) -> list[tf.Operation]:
        """Returns the operations that read a tensor, once for each time."""
        return self._readers.get(tensor.ref(), [])

    def only(self, tensor: tf.Tensor) -> tf.Operation | None:
        """Returns the one operation that reads a tensor once, if nobody else wants its tangent."""
        found = self.of(tensor)
        return found[0] if len(found) == 1 and not self.wanted(tensor) else None

    def wanted(self, tensor: tf.Tensor) -> bool:
        """Whether a tensor's tangent is asked for."""
        return tensor.ref() in self._wanted

    def hidden(self, members: Iterable[tf.Operation], last: tf.Operation) -> list[str]:
        """Returns the names of those whose tangents only each other and the last one read.

        Args:
          members: Operations in the order in which they run.
          last: The last one of them.
        """
        inside = {last.name}
        for op in reversed(list(members)):
            if op.name == last.name:
                continue
            readers = [reader.name for output in op.outputs for reader in self.of(output)]
            if not any(map(self.wanted, op.outputs)) and inside.issuperset(readers):
                inside.add(op.name)
        return sorted(inside - {last.name})
