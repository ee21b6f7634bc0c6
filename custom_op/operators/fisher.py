"""The Fisher matrix of a network's predictions: exact, sampled, or from the true targets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from custom_op import losses
from custom_op.operators.batch_operator import Batch, LinearizedOperator
from custom_op.operators.dataset_operator import DatasetOperator, on_batch_or_data_set

Structure = Any


class Fisher(LinearizedOperator):
    """F = Σ wᵢ E[gᵢ gᵢᵀ] / N over the loss's terms, with targets drawn from the model.

    g is a term's gradient in the parameters at a target y ~ p(y|z), and the loss -log p(y|z). For
    all losses of `custom_op.losses` p is an exponential family with natural parameters z, and F
    is the Gauss-Newton matrix (Martens 2020, section 9.2).
    """

    def _output_product(self, tangents: tf.Tensor) -> tf.Tensor:
        return self._evaluation.fisher_product(tangents, self._mean)


class SampledFisher(LinearizedOperator):
    """The Fisher matrix with the expectation replaced by a mean over drawn targets.

    The targets are drawn once, when the operator is made; its expectation is the exact matrix.
    """

    goes_by_number = True

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
        *,
        seed: int,
        samples: int,
    ) -> None:
        super().__init__(
            function,
            parameters,
            loss,
            batch,
            summed,
            product_dtype,
            unconnected,
            check_deterministic,
        )
        self._factors = self._evaluation.sampled_gradients(seed, batch.first, samples)

    def _output_product(self, tangents: tf.Tensor) -> tf.Tensor:
        return self._evaluation.outer_products(self._factors, tangents, self._mean)


class EmpiricalFisher(LinearizedOperator):
    """F = Σ gᵢ gᵢᵀ / B over B examples, with gᵢ the gradient of an example at its true target.

    The loss ℓᵢ of example i is scaled, weight included, so that the mean loss is Σ ℓᵢ / B. So
    F - g gᵀ, with g the gradient of the mean loss, is the covariance of the examples' gradients.
    It is not an approximation of the Fisher matrix (Kunstner, Balles and Hennig 2019).
    """

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
        super().__init__(
            function,
            parameters,
            loss,
            batch,
            summed,
            product_dtype,
            unconnected,
            check_deterministic,
        )
        # Before any mean: the examples' gradients in the outputs.
        self._residuals = self._evaluation.gradient(1.0)

    @staticmethod
    def normalization(count: Any, examples: Any) -> Any:
        """Returns B / N²: a gradient of an example's share is a sum, times B / N."""
        return examples / (count * count)

    def _output_product(self, tangents: tf.Tensor) -> tf.Tensor:
        # <gᵢ, v> = <rᵢ, (J v)ᵢ>: example i's outputs are row i.
        along = self._residuals * tangents
        axes = list(range(1, along.shape.rank))
        along = tf.reduce_sum(along, axes, keepdims=True) if axes else along
        product = self._residuals * along
        if self._summed:
            return product
        return product * tf.math.divide_no_nan(self.examples, tf.square(self.count))


def fisher(
    function: Callable[..., tf.Tensor],
    parameters: Structure,
    loss: str | losses.Loss,
    targets: Any = None,
    *,
    kind: str = "exact",
    samples: int = 1,
    seed: int = 0,
    weights: Any = None,
    mask: Any = None,
    data: Iterable[Any] | None = None,
    progress: bool = False,
    product_dtype: str | None = None,
    unconnected: str = "error",
    check_deterministic: bool = True,
) -> LinearizedOperator | DatasetOperator:
    """Returns a Fisher operator of a network and a loss, on one batch or a data set.

    `"exact"` is the expectation over the model's own targets, in closed form. `"sampled"` draws
    `samples` targets for each term of the loss. `"empirical"` takes the true targets, with one
    gradient per example. In all of them, an example has a gradient of its own only if its outputs
    depend on its own inputs alone; batch normalization in training mode violates that.

    Args:
      function: A function from the parameters, with `data` from the parameters and a batch's
        inputs, to the network's outputs: one floating tensor whose first axis counts examples.
      parameters: A structure of floating tensors of static shapes.
      loss: A loss of `custom_op.losses`, or its name.
      targets: The targets that the loss compares the outputs with. Only `"empirical"` depends on
        their values (and a softmax on the sum of soft labels).
      kind: `"exact"`, `"sampled"` or `"empirical"`.
      samples: The number of targets drawn for each term, for `"sampled"`.
      seed: The seed of the draws, for `"sampled"`; they depend only on it and on an example's
        number in the data.
      weights: The weights of the examples, of shape [B] or of the shape of the loss's terms. The
        exact and the sampled matrix are linear in them; in the empirical one they scale the
        gradients.
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
      On one batch a `Fisher`, `SampledFisher` or `EmpiricalFisher`; on a data set a
      `DatasetOperator`.

    Raises:
      ValueError: If the kind or the loss is unknown, targets, weights or mask do not fit the
        outputs, a parameter is unconnected, its shape is not static, the data is empty, the
        products' dtype is unknown, or the function or the data changes between passes.
      TypeError: If a parameter is not floating, the output is not one tensor of float32 or
        float64, the data can be iterated over only once, or a loss without a model is sampled.
    """
    if samples < 1:
        raise ValueError(f"Expected at least one sample, got samples={samples}.")
    kinds: dict[str, Any] = {
        "exact": Fisher,
        "sampled": SampledFisher,
        "empirical": EmpiricalFisher,
    }
    if kind not in kinds:
        raise ValueError(f"Expected a kind of Fisher matrix, one of {sorted(kinds)}, got {kind!r}.")
    extra = {"seed": seed, "samples": samples} if kind == "sampled" else {}
    options = {"product_dtype": product_dtype, "unconnected": unconnected, **extra}
    build = functools.partial(kinds[kind], **options)
    batch = Batch(targets, weights, mask)
    return on_batch_or_data_set(
        build, kinds[kind], function, parameters, loss, batch, data, progress, check_deterministic
    )
