"""Structures of tensors as flat vectors, and several of them as the columns of a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures

Structure = Any


class FlatForm:
    """The flat form of structures like a given one, whose tensors are not kept.

    Leaves stand in the order of `tf.nest.flatten`, each in row-major order. A subclass
    with another order, or with padding between leaves, sets other pieces.

    Attributes:
      names: The names of the leaves.
      shapes: The static shapes of the leaves.
      sizes: The number of entries of each leaf.
      size: The length of a flat vector.
      dtype: The dtype (that of the first leaf, if they differ).
    """

    def __init__(self, structure: Structure, what: str) -> None:
        """Describes the form of a structure.

        Args:
          structure: Floating tensors, variables or arrays of static shapes.
          what: The structure's name in error messages.

        Raises:
          ValueError: If there is no leaf, or a shape is not static.
          TypeError: If a leaf is not floating.
        """
        leaves = structures.flatten_floating(structure, what)
        self.names = structures.leaf_names(structure)
        for name, leaf in zip(self.names, leaves, strict=True):
            if leaf.shape.num_elements() is None:
                raise ValueError(f"Expected {what} of static shapes, got {leaf.shape} at {name!r}.")
        self._structure = tf.nest.map_structure(lambda _: None, structure)
        self._dtypes = [leaf.dtype for leaf in leaves]
        self.dtype = self._dtypes[0]
        self.shapes: list[tf.TensorShape] = [leaf.shape for leaf in leaves]
        self.sizes: list[int] = [shape.num_elements() for shape in self.shapes]
        self._set_pieces(list(enumerate(self.sizes)))

    def _set_pieces(self, pieces: list[tuple[int | None, int]]) -> None:
        """Sets the pieces of a vector, in order: (leaf, size), or (None, size) for zeros."""
        self._pieces = pieces
        self.size = sum(size for _, size in pieces)

    def flatten(self, structure: Structure) -> tf.Tensor:
        """Returns a structure as one vector of shape [size]."""
        leaves = tf.nest.flatten(structure)
        return tf.concat(
            [
                tf.zeros([size], self.dtype)
                if leaf is None
                else tf.reshape(tf.convert_to_tensor(leaves[leaf]), [-1])
                for leaf, size in self._pieces
            ],
            0,
        )

    def unflatten(self, vector: tf.Tensor) -> Structure:
        """Returns a flat vector of shape [size] as a structure.

        Args:
          vector: A tensor or array.

        Returns:
          The structure.

        Raises:
          ValueError: If the shape differs.
          TypeError: If the dtype differs, or the structure has several.
        """
        vector = self.tensor(vector)
        if vector.shape.rank != 1:
            raise ValueError(f"Expected a flat vector of shape ({self.size},), got {vector.shape}.")
        # Empty leaves may have no piece.
        leaves = [
            None if shape.num_elements() else tf.zeros(shape, dtype)
            for shape, dtype in zip(self.shapes, self._dtypes, strict=True)
        ]
        for (leaf, _), part in zip(self._pieces, self._split(vector), strict=True):
            if leaf is not None:
                leaves[leaf] = tf.reshape(part, self.shapes[leaf])
        return tf.nest.pack_sequence_as(self._structure, leaves)

    def _split(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Returns the pieces of a flat vector."""
        return tf.split(vector, [size for _, size in self._pieces])

    def rank(self, vector: Structure) -> int:
        """Returns 0 for a structure, 1 for a flat vector, 2 for a matrix of columns."""
        if tf.nest.is_nested(vector) or not hasattr(vector, "shape"):
            return 0
        rank = len(vector.shape)
        if tf.nest.is_nested(self._structure):
            return 2 if rank == 2 else 1
        # The structure is a single tensor: only the shape tells whether the vector is flat.
        if self.shapes[0].is_compatible_with(vector.shape):
            return 0
        if rank == 2 and vector.shape[0] == self.size:
            return 2
        return 1 if rank == 1 else 0

    def one_dtype(self) -> tf.DType:
        """Returns the dtype of all leaves.

        Raises:
          TypeError: If there are several.
        """
        dtypes = sorted({dtype.name for dtype in self._dtypes})
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
          ValueError: If the shape differs.
          TypeError: If the dtype of a tensor differs, or the structure has several.
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
