"""Structures of tensors as flat vectors, and several of them as the columns of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures

Structure = Any


class FlatForm:
    """The flat form of structures like a given one.

    Leaves stand in the order of `tf.nest.flatten`, each in row-major order.

    Attributes:
      leaves: The flat tensors of the given structure.
      size: How many numbers there are.
      dtype: The dtype (of the first leaf, where they differ).
    """

    def __init__(self, structure: Structure, what: str):
        self._structure = structure
        self.leaves = structures.flatten_floating(structure, what)
        for name, leaf in zip(structures.leaf_names(structure), self.leaves, strict=True):
            if leaf.shape.num_elements() is None:
                raise ValueError(f"Expected {what} of static shapes, got {leaf.shape} at {name!r}.")
        self._sizes = [leaf.shape.num_elements() for leaf in self.leaves]
        self.size = sum(self._sizes)
        self.dtype = self.leaves[0].dtype

    def flatten(self, structure: Structure) -> tf.Tensor:
        """Returns a structure as one vector of shape [size]."""
        return tf.concat([tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(structure)], 0)

    def unflatten(self, vector: tf.Tensor) -> Structure:
        """Returns a flat vector of shape [size] as a structure.

        Args:
          vector: A tensor or array.

        Returns:
          The structure.

        Raises:
          ValueError: If the shape is another.
          TypeError: If the dtype is another, or the structure has several.
        """
        vector = self.tensor(vector)
        if vector.shape.rank != 1:
            raise ValueError(f"Expected a flat vector of shape ({self.size},), got {vector.shape}.")
        leaves = [
            tf.reshape(piece, leaf.shape)
            for piece, leaf in zip(tf.split(vector, self._sizes), self.leaves, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._structure, leaves)

    def apply(
        self, product: Callable[[Structure], Structure], vector: Structure, result: FlatForm
    ) -> Structure:
        """Applies a linear map of structures to a vector in any form.

        Args:
          product: From a structure of this form to one of the result's; checks what it is given.
          vector: A structure, a flat vector, or a matrix whose columns are flat vectors.
          result: The form of the map's results.

        Returns:
          The product, in the form that corresponds to the vector's.

        Raises:
          ValueError: If a shape is another.
          TypeError: If the dtype is another, or a structure has several.
        """
        rank = self.rank(vector)
        if rank == 0:
            return product(vector)
        if rank == 1:
            return result.flatten(product(self.unflatten(vector)))
        result.one_dtype()
        rows = tf.map_fn(
            lambda row: result.flatten(product(self.unflatten(row))),
            tf.transpose(self.tensor(vector)),
            fn_output_signature=tf.TensorSpec([result.size], result.dtype),
        )
        return tf.transpose(rows)

    def rank(self, vector: Structure) -> int:
        """Returns 0 for a structure, 1 for a flat vector, 2 for a matrix of columns."""
        if tf.nest.is_nested(vector) or not hasattr(vector, "shape"):
            return 0
        rank = len(vector.shape)
        if tf.nest.is_nested(self._structure):
            return 2 if rank == 2 else 1
        # The structure is one tensor: only its shape tells a tensor like it from a flat one.
        if self.leaves[0].shape.is_compatible_with(vector.shape):
            return 0
        if rank == 2 and vector.shape[0] == self.size:
            return 2
        return 1 if rank == 1 else 0

    def one_dtype(self) -> tf.DType:
        """Returns the dtype of all leaves.

        Raises:
          TypeError: If there are several.
        """
        dtypes = sorted({leaf.dtype.name for leaf in self.leaves})
        if len(dtypes) > 1:
            raise TypeError(
                f"A flat vector needs tensors of one dtype, got {dtypes}; pass a structure."
            )
        return self.dtype

    def tensor(self, vector: Any) -> tf.Tensor:
        """Returns a flat vector, or a matrix of columns, as a tensor, after checking it.

        Args:
          vector: A tensor or array.

        Returns:
          The tensor, of shape [size] or [size, K].

        Raises:
          ValueError: If the shape is another.
          TypeError: If the dtype of a tensor is another, or the structure has several.
        """
        dtype = self.one_dtype()
        if not tf.is_tensor(vector):
            vector = tf.convert_to_tensor(np.asarray(vector), dtype)
        vector = tf.convert_to_tensor(vector)
        if vector.dtype != dtype:
            raise TypeError(
                f"Expected a flat vector of dtype {dtype.name}, got {vector.dtype.name}; "
                "cast it first."
            )
        if vector.shape.rank not in (1, 2) or vector.shape[0] not in (self.size, None):
            raise ValueError(f"Expected a flat vector of shape ({self.size},), got {vector.shape}.")
        return vector
