"""The Jacobian of a function of parameters, as a linear operator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op.flat_form import FlatForm
from custom_op.linearization import linearize
from custom_op.operators import adapters
from custom_op.operators.dense_jacobian import NoRuleError, components, rows_by_examples
from custom_op.operators.products import Products, as_matrix

Structure = Any


class Jacobian:
    """J = ∂z/∂w at one point: M outputs by P parameters.

    Vectors on either side are structures, flat vectors of shape [P] or [M], or the columns of a
    matrix.

    Attributes:
      outputs: The outputs z.
      shape: (M, P).
      dtype: The parameters' dtype (that of the first, if they differ).
    """

    def __init__(
        self,
        function: Callable[[Structure], Structure],
        parameters: Structure,
        unconnected: str = "error",
    ) -> None:
        self._linearization = linearize(function, parameters, unconnected=unconnected)
        self.outputs = self._linearization.outputs
        self._columns = FlatForm(parameters, "parameters")
        self._rows = FlatForm(self.outputs, "outputs")
        self.shape = (self._rows.size, self._columns.size)
        self.dtype = self._columns.dtype
        self._dense: Callable[[], tf.Tensor] | None = None
        self._forward = Products(self._linearization.jvp, self._columns, self._rows)
        self._backward = Products(self._linearization.vjp, self._rows, self._columns)

    def matvec(self, vector: Structure) -> Structure:
        """Returns J v, by R-forward.

        Args:
          vector: A structure like the parameters, a flat vector [P], or a matrix [P, K].

        Returns:
          The product, in the corresponding form: a structure like the outputs, [M] or [M, K].

        Raises:
          ValueError: If the structure or a shape differs from the parameters'.
          TypeError: If a dtype differs.
        """
        return self._forward.apply(vector)

    def rmatvec(self, vector: Structure) -> Structure:
        """Returns Jᵀ u.

        Args:
          vector: A structure like the outputs, a flat vector [M], or a matrix [M, K].

        Returns:
          The product, in the corresponding form: a structure like the parameters, [P] or [P, K].

        Raises:
          ValueError: If the structure or a shape differs from the outputs'.
          TypeError: If a dtype differs.
        """
        return self._backward.apply(vector)

    def matmat(self, columns: Any) -> tf.Tensor:
        """Returns J X of shape [M, K] for X of shape [P, K], all columns at once.

        Args:
          columns: A tensor or array X.

        Returns:
          The product.

        Raises:
          ValueError: If X does not have that shape.
          TypeError: If a dtype differs, or there are several.
        """
        return self.matvec(as_matrix(columns, self._columns, "J X"))

    def rmatmat(self, columns: Any) -> tf.Tensor:
        """Returns Jᵀ X of shape [P, K] for X of shape [M, K], all columns at once.

        Args:
          columns: A tensor or array X.

        Returns:
          The product.

        Raises:
          ValueError: If X does not have that shape.
          TypeError: If a dtype differs, or there are several.
        """
        return self.rmatvec(as_matrix(columns, self._rows, "Jᵀ X"))

    def __matmul__(self, vector: Structure) -> Structure:
        """Returns J v, as `matvec` does."""
        return self.matvec(vector)

    def to_dense(self) -> tf.Tensor:
        """Returns J as an [M, P] matrix; for small networks.

        Rows are computed for all examples at once, the first axis of the outputs, at the cost of
        about one gradient for each number that an example has. So the Jacobian of the examples'
        losses, [B], gives the examples' gradients. Only where examples depend on each other, as in
        batch normalization, does that take more.
        """
        self._rows.one_dtype()
        self._columns.one_dtype()
        if not tf.executing_eagerly():
            return self._to_dense()
        if self._dense is None:
            self._dense = tf.function(self._to_dense, autograph=False)
        return self._dense()

    def _to_dense(self) -> tf.Tensor:
        per_example = components(self.outputs)
        if per_example is not None and per_example < self.shape[1]:
            with contextlib.suppress(NoRuleError):
                return rows_by_examples(self._pull, self.outputs)
        if self.shape[0] < self.shape[1]:
            return self._backward.of_rows(tf.eye(self.shape[0], dtype=self._rows.dtype))
        return tf.transpose(self._forward.of_rows(tf.eye(self.shape[1], dtype=self.dtype)))

    def _pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        return self._columns.flatten(self._linearization.vjp(cotangents))

    def to_scipy(self) -> Any:
        """Returns J for SciPy's least squares (`lsmr`, `lsqr`, `svds`).

        Returns:
          A `scipy.sparse.linalg.LinearOperator` of the parameters' dtype. Its products run
          eagerly, so the operator must be made outside a `tf.function`.

        Raises:
          TypeError: If there are several dtypes, or one that NumPy does not have.
        """
        return adapters.to_scipy(self)

    def _flat_dtype(self) -> tf.DType:
        self._rows.one_dtype()
        return self._columns.one_dtype()


def jacobian(
    function: Callable[[Structure], Structure],
    parameters: Structure,
    *,
    unconnected: str = "error",
) -> Jacobian:
    """Returns the Jacobian operator of a function.

    Args:
      function: A function from the parameters to a structure of floating tensors of static shapes.
      parameters: A structure of floating tensors of static shapes.
      unconnected: The treatment of a parameter that no output depends on: `"error"`, or `"zero"`
        for columns of zeros.

    Returns:
      The operator; its forward pass has run.

    Raises:
      ValueError: If a shape is not static or a parameter is unconnected.
      TypeError: If a tensor is not floating.
    """
    return Jacobian(function, parameters, unconnected)
