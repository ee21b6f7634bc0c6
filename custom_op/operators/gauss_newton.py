"""The Gauss-Newton matrix of a loss, G = Jᵀ H J, as a linear operator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from custom_op import losses
from custom_op.operators.batch_operator import Batch, LinearizedOperator
from custom_op.operators.dataset_operator import DatasetOperator, on_batch_or_data_set

Structure = Any


class GaussNewton(LinearizedOperator):
    """G = Jᵀ H_ℓ J at one point and on one batch (Schraudolph 2002).

    J is the Jacobian of the network's outputs z in the parameters and H_ℓ the Hessian of the mean
    loss in z. G is symmetric and, for a convex loss, positive semidefinite. A product is
    differentiable, in the vector and (unless they are stopped) in the parameters.

    Attributes:
      outputs: z, from the forward pass that the linearization ran.
      shape: (P, P), with P the number of parameters.
      dtype: The parameters' dtype (of the first, where they differ).
    """

    def _output_product(self, tangents):
        return self._evaluation.hessian_product(tangents, self._mean)


def gauss_newton(
    function: Callable[..., tf.Tensor],
    parameters: Structure,
    loss: str | losses.Loss,
    targets: Any = None,
    *,
    weights: Any = None,
    mask: Any = None,
    data: Iterable | None = None,
    progress: bool = False,
    product_dtype: str | None = None,
    unconnected: str = "error",
    check_deterministic: bool = True,
) -> GaussNewton | DatasetOperator:
    """Returns the Gauss-Newton operator of a network and a loss, on one batch or a data set.

    Args:
      function: Takes the parameters and returns the network's outputs, one floating tensor whose
        first axis counts examples. With `data` it takes the parameters and a batch's inputs.
      parameters: A structure of floating tensors of static shapes.
      loss: A loss of `custom_op.losses`, or its name.
      targets: What the loss compares the outputs with.
      weights: How much each example counts: of shape [B], or of the loss's terms. See
        `custom_op.losses.MeanLoss` for what the mean is then.
      mask: Which examples are there: booleans of such a shape.
      data: In the place of targets, weights and mask: an iterable of batches `(inputs, targets)`,
        `(inputs, targets, weights)` or `(inputs, targets, weights, mask)`, where None stands for
        no weights. It is iterated over once in every product.
      progress: Whether each pass over `data` shows a progress bar.
      product_dtype: `"bfloat16"` to compute the network's products, where it has them in float32,
        from operands rounded to bfloat16, as `linearize` does. Sums, the loss and its Hessian, the
        outputs and the gradient keep their dtype.
      unconnected: What to do with a parameter that the outputs do not depend on: `"error"`, or
        `"zero"` for a zero block.
      check_deterministic: Whether the function and the data are checked to be the same whenever
        they are looked at: on a batch the function runs twice when the operator is made, outside
        a `tf.function`; on a data set as well, on the first batch, whose first batches are read
        twice, and each pass is compared with the first by a checksum of its examples.

    Returns:
      On one batch a `GaussNewton`, whose forward pass has run; on a data set a `DatasetOperator`,
      whose products are those of the mean over all examples, however they were cut into batches.

    Raises:
      ValueError: If the loss is unknown, targets, weights or mask do not fit the outputs, a
        parameter is unconnected, its shape is not static, the data is empty, the products' dtype is
        unknown, or the function or the data changes from look to look.
      TypeError: If a parameter is not floating, the output is not one tensor of float32 or
        float64, or the data can be iterated over only once.
    """
    build = functools.partial(GaussNewton, product_dtype=product_dtype, unconnected=unconnected)
    batch = Batch(targets, weights, mask)
    return on_batch_or_data_set(
        build, GaussNewton, function, parameters, loss, batch, data, progress, check_deterministic
    )
