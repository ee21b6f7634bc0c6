"""The Hessian of a mean loss in the parameters, as a linear operator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from custom_op import losses
from custom_op.linearization import linearize
from custom_op.operators.batch_operator import Batch, BatchOperator, evaluate
from custom_op.operators.dataset_operator import DatasetOperator, on_batch_or_data_set

Structure = Any


class Hessian(BatchOperator):
    """H = ∂²ℓ/∂w² at one point and on one batch (Pearlmutter 1994).

    The gradient is linearized: the forward and the backward pass run once, and a product pushes
    tangents through both. H is symmetric but in general indefinite.
    """

    positive_semidefinite = False

    def __init__(
        self,
        function: Callable[[Structure], tf.Tensor],
        parameters: Structure,
        loss: losses.Loss,
        batch: Batch,
        summed: bool = False,
        product_dtype: Any = None,
        unconnected: str = "error",
        check_deterministic: bool = False,
    ) -> None:
        def gradient(leaves: Structure) -> dict[str, Structure]:
            inner = linearize(function, leaves, unconnected=unconnected)
            evaluation = evaluate(loss, inner.outputs, batch)
            slope = inner.vjp(evaluation.gradient(1.0 if summed else None))
            # The outputs too: a parameter that they depend on may have a constant gradient.
            return {"gradient": slope, "outputs": inner.outputs}

        self._linearization = linearize(
            gradient, parameters, unconnected=unconnected, product_dtype=product_dtype
        )
        if check_deterministic:
            self._linearization.check_deterministic()
        outputs = self._linearization.outputs["outputs"]
        super().__init__(parameters, evaluate(loss, outputs, batch), summed)
        self.outputs = outputs

    def gradient(self) -> Structure:
        """Returns the gradient of the mean loss, in the structure of the parameters."""
        return self._linearization.outputs["gradient"]

    def _product(self, vector: Structure) -> Structure:
        return self._linearization.jvp(vector)["gradient"]


def hessian(
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
) -> Hessian | DatasetOperator:
    """Returns the Hessian operator of a network and a loss, on one batch or a data set.

    Args:
      function: A function from the parameters, with `data` from the parameters and a batch's
        inputs, to the network's outputs: one floating tensor whose first axis counts examples.
      parameters: A structure of floating tensors of static shapes.
      loss: A loss of `custom_op.losses`, or its name.
      targets: The targets that the loss compares the outputs with.
      weights: The weights of the examples, of shape [B] or of the shape of the loss's terms. See
        `custom_op.losses.MeanLoss` for the definition of the mean.
      mask: The examples that count: booleans of such a shape.
      data: Instead of targets, weights and mask: an iterable of batches, as for
        `gauss_newton`.
      progress: Whether each pass over `data` shows a progress bar.
      product_dtype: The dtype of the network's products, as in `linearize`: `"bfloat16"` rounds
        float32 operands. Sums, the loss and its Hessian, the outputs and the gradient keep their
        dtype.
      unconnected: The treatment of a parameter that the outputs do not depend on: `"error"`, or
        `"zero"` for a zero block.
      check_deterministic: Whether to check that the function and the data stay the same, as
        `gauss_newton` does.

    Returns:
      On one batch a `Hessian`, whose gradient has been computed; on a data set a
      `DatasetOperator`.

    Raises:
      ValueError: If the loss is unknown, targets, weights or mask do not fit the outputs, a
        parameter is unconnected, its shape is not static, the data is empty, the products' dtype is
        unknown, or the function or the data changes between passes.
      TypeError: If a parameter is not floating, the output is not one tensor of float32 or
        float64, or the data can be iterated over only once.
      NotDifferentiableError: If an operation has no second derivative.
    """
    build = functools.partial(Hessian, product_dtype=product_dtype, unconnected=unconnected)
    batch = Batch(targets, weights, mask)
    return on_batch_or_data_set(
        build, Hessian, function, parameters, loss, batch, data, progress, check_deterministic
    )
