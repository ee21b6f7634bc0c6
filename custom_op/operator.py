"""A square matrix that is known by its products with vectors of parameters."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures

Structure = Any


class CurvatureOperator(abc.ABC):
    """A symmetric matrix over parameters, such as a Gauss-Newton, Fisher or Hessian matrix.

    A vector is a structure like the parameters, or flat, of shape [P]; several at once are the
    columns of a [P, K] matrix. Flat means the leaves in the order of `tf.nest.flatten`, each in
    row-major order.

    Attributes:
      shape: (P, P), with P the number of parameters.
      dtype: The parameters' dtype (of the first, where they differ).
      positive_semidefinite: Whether <v, A v> ≥ 0 for every v by construction.
    """

    positive_semidefinite = True

    def __init__(self, parameters: Structure):
        self._parameters = parameters
        self._leaves = structures.flatten_floating(parameters, "parameters")
        size = sum(_size(leaf) for leaf in self._leaves)
        self.shape = (size, size)
        self.dtype = self._leaves[0].dtype

    @abc.abstractmethod
    def _product(self, vector: Structure) -> Structure:
        """Returns the product with a structure, which it checks."""

    def _products(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the products with the rows of a [K, P] matrix, as rows."""
        return tf.map_fn(lambda row: self.flatten(self._product(self.unflatten(row))), rows)

    @tf.autograph.experimental.do_not_convert
    def matvec(self, vector: Structure) -> Structure:
        """Returns A v.

        Args:
          vector: A structure like the parameters, a flat vector of shape [P], or a matrix of
            shape [P, K] whose columns are flat vectors.

        Returns:
          The product, in the form of the vector.

        Raises:
          ValueError: If the structure or a shape differs from the parameters'.
          TypeError: If a dtype differs.
        """
        rank = self._flat_rank(vector)
        if rank == 0:
            return self._product(vector)
        if rank == 1:
            return self.flatten(self._product(self.unflatten(vector)))
        return tf.transpose(self._products(tf.transpose(self._flat_tensor(vector))))

    def __matmul__(self, vector: Structure) -> Structure:
        """Returns A v, as `matvec` does."""
        return self.matvec(vector)

    def to_dense(self) -> tf.Tensor:
        """Returns A as a [P, P] matrix, by P products; for small networks."""
        self._flat_dtype()
        return tf.transpose(self._products(tf.eye(self.shape[0], dtype=self.dtype)))

    def to_scipy(self, damping: float = 0.0) -> Any:
        """Returns A + λI for SciPy's solvers and eigensolvers.

        Args:
          damping: λ.

        Returns:
          A `scipy.sparse.linalg.LinearOperator` of the parameters' dtype. Its products run
          eagerly, so the operator has to be made outside a `tf.function`.

        Raises:
          TypeError: If the parameters have several dtypes, or one that NumPy does not have.
        """
        from custom_op import adapters

        return adapters.to_scipy(self, damping)

    def to_linear_operator(
        self, damping: float = 0.0, is_positive_definite: bool | None = None
    ) -> tf.linalg.LinearOperator:
        """Returns A + λI as a `tf.linalg.LinearOperator`.

        Args:
          damping: λ.
          is_positive_definite: What the operator says of itself;
            `tf.linalg.experimental.conjugate_gradient` asks for `True`. By default that is so
            where A is positive semidefinite by construction and λ > 0.

        Returns:
          The operator, self-adjoint, of shape [P, P] and the parameters' dtype.

        Raises:
          TypeError: If the parameters have several dtypes.
        """
        from custom_op import adapters

        if is_positive_definite is None and self.positive_semidefinite and damping > 0:
            is_positive_definite = True
        return adapters.to_linear_operator(self, damping, is_positive_definite)

    def flatten(self, structure: Structure) -> tf.Tensor:
        """Returns a structure like the parameters as one vector of shape [P]."""
        return tf.concat([tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(structure)], 0)

    def unflatten(self, vector: tf.Tensor) -> Structure:
        """Returns a flat vector of shape [P] as a structure like the parameters.

        Args:
          vector: A tensor or array.

        Returns:
          The structure.

        Raises:
          ValueError: If the shape is not [P].
          TypeError: If the dtype is not the parameters', or they have several.
        """
        vector = self._flat_tensor(vector)
        if vector.shape.rank != 1:
            raise ValueError(
                f"Expected a flat vector of shape ({self.shape[0]},), got {vector.shape}."
            )
        pieces = tf.split(vector, [_size(leaf) for leaf in self._leaves])
        return tf.nest.pack_sequence_as(
            self._parameters,
            [
                tf.reshape(piece, leaf.shape)
                for piece, leaf in zip(pieces, self._leaves, strict=True)
            ],
        )

    def _flat_rank(self, vector: Structure) -> int:
        """Returns 0 for a structure like the parameters, 1 for flat, 2 for columns."""
        if tf.nest.is_nested(vector) or not hasattr(vector, "shape"):
            return 0
        rank = len(vector.shape)
        if tf.nest.is_nested(self._parameters):
            return 2 if rank == 2 else 1
        # The parameters are one tensor: only its shape tells a tensor like it from a flat one.
        if self._leaves[0].shape.is_compatible_with(vector.shape):
            return 0
        if rank == 2 and vector.shape[0] == self.shape[0]:
            return 2
        return 1 if rank == 1 else 0

    def _flat_dtype(self) -> tf.DType:
        dtypes = sorted({leaf.dtype.name for leaf in self._leaves})
        if len(dtypes) > 1:
            raise TypeError(
                f"A flat vector needs parameters of one dtype, got {dtypes}; pass a structure."
            )
        return self.dtype

    def _flat_tensor(self, vector: Any) -> tf.Tensor:
        dtype = self._flat_dtype()
        if not tf.is_tensor(vector):
            vector = tf.convert_to_tensor(np.asarray(vector), dtype)
        vector = tf.convert_to_tensor(vector)
        if vector.dtype != dtype:
            raise TypeError(
                f"Expected a flat vector of dtype {dtype.name}, got {vector.dtype.name}; "
                "cast it first."
            )
        if vector.shape.rank not in (1, 2) or vector.shape[0] not in (self.shape[0], None):
            raise ValueError(
                f"Expected a flat vector of shape ({self.shape[0]},), got {vector.shape}."
            )
        return vector


def _size(leaf: tf.Tensor) -> int:
    size = leaf.shape.num_elements()
    if size is None:
        raise ValueError(f"Expected parameters of static shapes, got {leaf.shape}.")
    return size
