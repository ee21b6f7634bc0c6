"""Operators in the form of SciPy's and of `tf.linalg`'s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def to_scipy(operator: Any, damping: float = 0.0) -> Any:
    """Returns a curvature or Jacobian operator as a `scipy.sparse.linalg.LinearOperator`.

    Args:
      operator: An operator with `shape`, `dtype` and `matvec`, and `rmatvec` if not symmetric.
      damping: A multiple of the identity to add.

    Returns:
      SciPy's operator, whose vectors are NumPy arrays.

    Raises:
      TypeError: If NumPy does not have the dtype, or parameters have several.
    """
    import scipy.sparse.linalg

    dtype = _numpy_dtype(operator)

    def adapted(product: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        def apply(x: np.ndarray) -> np.ndarray:
            flat = np.asarray(x, dtype)
            # SciPy's columns may come as [n, 1].
            flat = flat.reshape(-1) if flat.ndim == 2 and flat.shape[1] == 1 else flat
            result = np.asarray(product(tf.constant(flat)))
            if damping:
                result = result + dtype.type(damping) * flat
            # A solver that computes in float64 gets float64 back.
            result_dtype = np.result_type(dtype, np.asarray(x).dtype)
            return result.reshape((-1,) + np.shape(x)[1:]).astype(result_dtype, copy=False)

        return apply

    forward = adapted(operator.matvec)
    backward = adapted(operator.rmatvec) if hasattr(operator, "rmatvec") else forward
    return scipy.sparse.linalg.LinearOperator(
        shape=operator.shape,
        dtype=dtype,
        matvec=forward,
        rmatvec=backward,
        matmat=forward,
        rmatmat=backward,
    )


def _numpy_dtype(operator: Any) -> np.dtype:
    dtype = operator._flat_dtype()
    if dtype not in (tf.float32, tf.float64):
        raise TypeError(
            f"SciPy computes in float32 or float64, got parameters of {dtype.name}; cast them."
        )
    return np.dtype(dtype.as_numpy_dtype)


def to_linear_operator(
    operator: Any, damping: float = 0.0, is_positive_definite: bool | None = None
) -> tf.linalg.LinearOperator:
    """Returns a curvature operator as a `tf.linalg.LinearOperator`.

    Args:
      operator: A `CurvatureOperator`.
      damping: A multiple of the identity to add.
      is_positive_definite: The operator's hint about itself.

    Returns:
      The operator.

    Raises:
      TypeError: If the parameters have several dtypes.
    """
    return _LinearOperator(operator, damping, is_positive_definite)


class _LinearOperator(tf.linalg.LinearOperator):
    """A + λI for a curvature operator A."""

    def __init__(self, operator: Any, damping: float, is_positive_definite: bool | None) -> None:
        dtype = operator._flat_dtype()
        # TensorFlow composes and converts operators by these.
        arguments = {
            "operator": operator,
            "damping": damping,
            "is_positive_definite": is_positive_definite,
        }
        self._operator = operator
        self._damping = damping
        super().__init__(
            dtype=dtype,
            is_self_adjoint=True,
            is_positive_definite=is_positive_definite,
            is_square=True,
            name="curvature",
            parameters=arguments,
        )

    def _shape(self) -> tf.TensorShape:
        return tf.TensorShape(self._operator.shape)

    def _shape_tensor(self) -> tf.Tensor:
        return tf.constant(self._operator.shape)

    def _matmul(self, x: tf.Tensor, adjoint: bool = False, adjoint_arg: bool = False) -> tf.Tensor:
        del adjoint  # It is symmetric.
        x = tf.linalg.adjoint(x) if adjoint_arg else tf.convert_to_tensor(x)
        size = self._operator.shape[0]
        if x.shape.rank == 2 and x.shape[1] == 1:
            product = self._operator.matvec(tf.reshape(x, [size]))[:, tf.newaxis]
        elif x.shape.rank == 2:
            product = self._operator.matvec(x)
        else:
            # Leading axes count matrices: all their columns at once.
            columns = tf.reshape(tf.linalg.matrix_transpose(x), [-1, size])
            product = self._operator.matvec(tf.transpose(columns))
            swapped = tf.linalg.matrix_transpose(x)
            product = tf.reshape(tf.transpose(product), tf.shape(swapped))
            product = tf.linalg.matrix_transpose(product)
        return product + tf.constant(self._damping, x.dtype) * x if self._damping else product
