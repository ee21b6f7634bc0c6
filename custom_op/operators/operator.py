"""A square matrix that is known by its products with vectors of parameters."""

from __future__ import annotations

import abc
from typing import Any

import tensorflow as tf

from custom_op import structures
from custom_op.flat_form import FlatForm
from custom_op.operators import adapters
from custom_op.operators.products import Products, as_matrix

Structure = Any


class CurvatureOperator(abc.ABC):
    """A symmetric matrix over parameters, such as a Gauss-Newton, Fisher or Hessian matrix.

    A vector is a structure like the parameters, or flat, of shape [P]; several vectors are the
    columns of a [P, K] matrix. A flat vector holds the leaves in the order of `tf.nest.flatten`,
    each in row-major order.

    Attributes:
      shape: (P, P), with P the number of parameters.
      dtype: The parameters' dtype (that of the first, if they differ).
      positive_semidefinite: Whether <v, A v> ≥ 0 for every v by construction.
    """

    positive_semidefinite = True

    def __init__(self, parameters: Structure) -> None:
        self._parameters = parameters
        self._leaves = structures.flatten_floating(parameters, "parameters")
        self._form = FlatForm(parameters, "parameters")
        self.shape = (self._form.size, self._form.size)
        self.dtype = self._form.dtype
        self._all_forms = Products(self._product, self._form, self._form)

    @abc.abstractmethod
    def _product(self, vector: Structure) -> Structure:
        """Returns the product with a structure, after checking it."""

    def _products(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the products with the rows of a [K, P] matrix, as rows."""
        return self._all_forms.of_rows(rows)

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
        if self._form.rank(vector) == 2:
            return tf.transpose(self._products(tf.transpose(self._form.tensor(vector))))
        return self._all_forms.apply(vector)

    def matmat(self, columns: Any) -> tf.Tensor:
        """Returns A X, all columns at once.

        One product with many vectors costs far less than many products: operations carry an extra
        axis, in chunks where tensors would become large.

        Args:
          columns: A tensor or array X of shape [P, K].

        Returns:
          A tensor of shape [P, K].

        Raises:
          ValueError: If it does not have that shape.
          TypeError: If the dtype differs, or the parameters have several.
        """
        return self.matvec(as_matrix(columns, self._form, "A X"))

    def __matmul__(self, vector: Structure) -> Structure:
        """Returns A v, as `matvec` does."""
        return self.matvec(vector)

    def to_dense(self) -> tf.Tensor:
        """Returns A as a [P, P] matrix, by P products; for small networks."""
        return tf.transpose(self._products(tf.eye(self.shape[0], dtype=self._flat_dtype())))

    def to_scipy(self, damping: float = 0.0) -> Any:
        """Returns A + λI for SciPy's solvers and eigensolvers.

        Args:
          damping: The multiple λ of the identity.

        Returns:
          A `scipy.sparse.linalg.LinearOperator` of the parameters' dtype. Its products run
          eagerly, so the operator must be made outside a `tf.function`.

        Raises:
          TypeError: If the parameters have several dtypes, or one that NumPy does not have.
        """
        return adapters.to_scipy(self, damping)

    def to_linear_operator(
        self, damping: float = 0.0, is_positive_definite: bool | None = None
    ) -> tf.linalg.LinearOperator:
        """Returns A + λI as a `tf.linalg.LinearOperator`.

        Args:
          damping: The multiple λ of the identity.
          is_positive_definite: The operator's hint about itself;
            `tf.linalg.experimental.conjugate_gradient` demands `True`. By default it is True
            if A is positive semidefinite by construction and λ > 0.

        Returns:
          The operator, self-adjoint, of shape [P, P] and the parameters' dtype.

        Raises:
          TypeError: If the parameters have several dtypes.
        """
        if is_positive_definite is None and self.positive_semidefinite and damping > 0:
            is_positive_definite = True
        return adapters.to_linear_operator(self, damping, is_positive_definite)

    def flatten(self, structure: Structure) -> tf.Tensor:
        """Returns a structure like the parameters as one vector of shape [P]."""
        return self._form.flatten(structure)

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
        return self._form.unflatten(vector)

    def _flat_dtype(self) -> tf.DType:
        return self._form.one_dtype()
