"""A loop over time that keeps a row of tensors per step, in the graph once or step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


class Rows:
    """The rows that a scan kept, read by time, inside a graph too. Nothing is copied or stacked."""

    def __init__(self, arrays: Any, rows: Sequence[Any] | None = None) -> None:
        self._arrays = arrays
        self._rows = rows

    def read(self, t: Any) -> Any:
        """Returns the row of time t, an integer if the scan was unrolled, else a tensor."""
        if self._rows is not None:
            return self._rows[t]
        return tf.nest.map_structure(lambda array: array.read(t), self._arrays)

    def stacked(self) -> Any:
        """Returns all rows, each of their tensors stacked along a new first axis."""
        if self._rows is not None:
            return tf.nest.map_structure(lambda *values: tf.stack(values), *self._rows)
        return tf.nest.map_structure(lambda array: array.stack(), self._arrays)

    def column(self, name: str) -> tf.Tensor:
        """Returns one field of all rows, stacked along a new first axis."""
        if self._rows is not None:
            return tf.stack([getattr(row, name) for row in self._rows])
        return getattr(self._arrays, name).stack()


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    length: int,
    row_specs: Any = (),
    *,
    unrolled: bool = False,
    reverse: bool = False,
) -> tuple[Any, Rows]:
    """Runs `carry, row = body(t, carry)` over time.

    Args:
      body: The function of one step. It is traced once, unless the scan is unrolled.
      carry: A structure of tensors, of the same shapes before and after a step.
      length: The number of steps.
      row_specs: A structure of `tf.TensorSpec` like the row; `()` if nothing is kept.
      unrolled: Whether the steps stand in the graph one by one; t is then an integer.
      reverse: Whether time runs from length - 1 to 0.

    Returns:
      The last carry, and the rows.
    """
    if unrolled:
        rows: list[Any] = [None] * length
        for t in reversed(range(length)) if reverse else range(length):
            carry, rows[t] = body(t, carry)
        return carry, Rows(None, rows)

    arrays = tf.nest.map_structure(
        lambda spec: tf.TensorArray(
            spec.dtype, size=length, element_shape=spec.shape, clear_after_read=False
        ),
        row_specs,
    )
    carry = tf.nest.map_structure(tf.convert_to_tensor, carry)

    def step(i: tf.Tensor, carry: Any, arrays: Any) -> tuple[Any, ...]:
        t = length - 1 - i if reverse else i
        carry, row = body(t, carry)
        arrays = tf.nest.map_structure(lambda array, value: array.write(t, value), arrays, row)
        return i + 1, carry, arrays

    _, carry, arrays = tf.while_loop(
        lambda i, *_: i < length,
        step,
        (tf.constant(0), carry, arrays),
        maximum_iterations=length,
        # A step's row is large: two steps at once would not fit the caches.
        parallel_iterations=1,
    )
    return carry, Rows(arrays)
