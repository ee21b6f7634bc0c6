"""Products of an operator with vectors in any form: structures, flat vectors, and columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op.flat_form import FlatForm
from custom_op.graphs.batching.over_vectors import on_rows

Structure = Any

# Outside of graphs, tracing pays off from this many vectors.
_TRACED_FROM = 4


class Products:
    """The products of a linear map of structures, with one vector or with many at once."""

    def __init__(
        self, product: Callable[[Structure], Structure], form: FlatForm, result: FlatForm
    ) -> None:
        """Keeps a linear map.

        Args:
          product: The map, from a structure of a form to one of the result's form; it checks its
            argument.
          form: The form of the map's arguments.
          result: The form of its results.
        """
        self._product, self._form, self._result = product, form, result
        self._traced: Callable[[tf.Tensor], tf.Tensor] | None = None

    def apply(self, vector: Structure) -> Structure:
        """Applies the map to a vector in any form.

        Args:
          vector: A structure, a flat vector, or a matrix whose columns are flat vectors.

        Returns:
          The product, in the form that corresponds to the vector's.

        Raises:
          ValueError: If a shape differs.
          TypeError: If the dtype differs, or a structure has several.
        """
        rank = self._form.rank(vector)
        if rank == 0:
            return self._product(vector)
        if rank == 1:
            return self._flat(vector)
        self._result.one_dtype()
        return tf.transpose(self.of_rows(tf.transpose(self._form.tensor(vector))))

    def of_rows(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the products with the rows of a [K, n] matrix, as rows."""
        if not tf.executing_eagerly():
            return on_rows(self._flat, rows)
        if rows.shape[0] < _TRACED_FROM:
            flat = [self._flat(row) for row in tf.unstack(rows)]
            return tf.stack(flat) if flat else tf.zeros([0, self._result.size], self._result.dtype)
        if self._traced is None:
            self._traced = tf.function(lambda given: on_rows(self._flat, given), autograph=False)
        return self._traced(rows)

    def _flat(self, vector: tf.Tensor) -> tf.Tensor:
        return self._result.flatten(self._product(self._form.unflatten(vector)))


def as_matrix(columns: Any, form: FlatForm, what: str) -> tf.Tensor:
    """Returns a matrix of columns as a tensor.

    Args:
      columns: A tensor or array of shape [n, K].
      form: The form of the columns.
      what: The product's name in error messages.

    Raises:
      ValueError: If it does not have that shape.
      TypeError: If the dtype differs.
    """
    shape = tuple(getattr(columns, "shape", ()))
    if len(shape) != 2 or shape[0] != form.size:
        raise ValueError(
            f"Expected a matrix of shape ({form.size}, K) for {what}, got {shape or columns!r}; "
            "a single vector goes to matvec."
        )
    return form.tensor(columns)
