"""The Gauss-Newton matrix of a loss, G = Jᵀ H J, as a linear operator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from custom_op import losses
from custom_op.operators.batch_operator import Batch, LinearizedOperator
from custom_op.operators.dataset_operator import DatasetOperator, on_batch_or_data_set
from custom_op.operators.root import Root, root_of

Structure = Any


class GaussNewton(LinearizedOperator):
    """G = Jᵀ H_ℓ J at one point and on one batch (Schraudolph 2002).

    J is the Jacobian of the network's outputs z in the parameters and H_ℓ the Hessian of the mean
    loss in z. G is symmetric and, for a convex loss, positive semidefinite. A product is
    differentiable, in the vector and (unless they are stopped) in the parameters.

    Attributes:
      outputs: The outputs z, from the forward pass of the linearization.
      shape: (P, P), with P the number of parameters.
      dtype: The parameters' dtype (that of the first, if they differ).
    """

    def _output_product(self, tangents: tf.Tensor) -> tf.Tensor:
        return self._evaluation.hessian_product(tangents, self._mean)

    def pulled_curvature(self, tangents: tf.Tensor) -> Structure:
        """Returns Jᵀ H_ℓ u, in the structure of the parameters, for tangents u of the outputs."""
        return self._linearization.vjp(self._output_product(tangents))

    def root(self) -> Root:
        """Returns R and r with G = Rᵀ R and the gradient Rᵀ r, as matrix and vector.

        Call it inside a `tf.function`. The loss has to be a sum over examples, as all of
        `custom_op.losses` are.

        Raises:
          ValueError: If the outputs' shape is not static.
          TypeError: If the parameters have several dtypes.
        """
        self._flat_dtype()
        return root_of(
            lambda u: self.flatten(self._linearization.vjp(u)), self._loss, self._evaluation
        )


def gauss_newton(
    function: Callable[..., tf.Tensor],
    parameters: Structure,
    loss: str | losses.Loss,
    targets: Any = None,
    *,
    weights: Any = None,
    mask: Any = None,
    data: Iterable[Any] | None = None,
    progress: bool = False,
    product_dtype: str | None = None,
    unconnected: str = "error",
    check_deterministic: bool = True,
) -> GaussNewton | DatasetOperator:
    """Returns the Gauss-Newton operator of a network and a loss, on one batch or a data set.

    Args:
      function: A function from the parameters, with `data` from the parameters and a batch's
        inputs, to the network's outputs: one floating tensor whose first axis counts examples.
      parameters: A structure of floating tensors of static shapes.
      loss: A loss of `custom_op.losses`, or its name.
      targets: The targets that the loss compares the outputs with.
      weights: The weights of the examples, of shape [B] or of the shape of the loss's terms. See
        `custom_op.losses.MeanLoss` for the definition of the mean.
      mask: The examples that count: booleans of such a shape.
      data: Instead of targets, weights and mask: an iterable of batches `(inputs, targets)`,
        `(inputs, targets, weights)` or `(inputs, targets, weights, mask)`, where None stands for
        no weights. Every product iterates over it once.
      progress: Whether each pass over `data` shows a progress bar.
      product_dtype: The dtype of the network's products, as in `linearize`: `"bfloat16"` rounds
        float32 operands. Sums, the loss and its Hessian, the outputs and the gradient keep their
        dtype.
      unconnected: The treatment of a parameter that the outputs do not depend on: `"error"`, or
        `"zero"` for a zero block.
      check_deterministic: Whether to check that the function and the data stay the same. Outside a
        `tf.function` the function runs twice on the (first) batch when the operator is made; the
        first batches of a data set are read twice, and the examples of each pass are compared with
        those of the first by a checksum.

    Returns:
      On one batch a `GaussNewton`, whose forward pass has run; on a data set a `DatasetOperator`
      of the mean over all examples, however they are divided into batches.

    Raises:
      ValueError: If the loss is unknown, targets, weights or mask do not fit the outputs, a
        parameter is unconnected, its shape is not static, the data is empty, the products' dtype is
        unknown, or the function or the data changes between passes.
      TypeError: If a parameter is not floating, the output is not one tensor of float32 or
        float64, or the data can be iterated over only once.
    """
    build = functools.partial(GaussNewton, product_dtype=product_dtype, unconnected=unconnected)
    batch = Batch(targets, weights, mask)
    return on_batch_or_data_set(
        build, GaussNewton, function, parameters, loss, batch, data, progress, check_deterministic
    )
