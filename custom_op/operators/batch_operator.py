"""Curvature of a network and a loss on one batch."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import losses, structures
from custom_op.graphs.batching.over_vectors import on_rows
from custom_op.linearization import linearize
from custom_op.operators.dense_jacobian import NoRuleError, components, rows_by_examples
from custom_op.operators.operator import CurvatureOperator

Structure = Any

# Many products use the Jacobian as a matrix if an example has at most this many outputs, if it has
# at most this many entries, and for at least this many vectors.
_MOST_NUMBERS, _LARGEST_JACOBIAN, _FEWEST_VECTORS = 2, 2**24, 8


class Batch(NamedTuple):
    """The targets of a batch, with weights and a mask.

    Attributes:
      targets: The targets that the loss compares the outputs with.
      weights: The weights of the examples, or None.
      mask: The examples that count, as booleans, or None.
      first: The number of the batch's first example in its data set.
    """

    targets: tf.Tensor
    weights: tf.Tensor | None = None
    mask: tf.Tensor | None = None
    first: tf.Tensor | int = 0


class BatchOperator(CurvatureOperator):
    """A curvature operator on one batch, from a forward pass that runs once.

    Products are differentiable, in the vector and (unless they are stopped) in the parameters.

    Attributes:
      outputs: The network's outputs z.
      count: The number of terms of the loss in the mean, a scalar.
      examples: The number of examples, a scalar.
    """

    def __init__(self, parameters: Structure, evaluation: losses.Evaluation, summed: bool) -> None:
        super().__init__(parameters)
        self._evaluation = evaluation
        # Either the sums over the batch, for a mean over several batches, or its own mean.
        self._summed = summed
        self.outputs = evaluation.outputs
        self.count = evaluation.count
        self.examples = evaluation.examples

    # Whether results depend on a batch's place among the others.
    goes_by_number = False

    @property
    def _mean(self) -> float | None:
        """The scale of the loss: 1 for sums, None for the mean."""
        return 1.0 if self._summed else None

    @staticmethod
    def normalization(count: Any, examples: Any) -> Any:
        """Returns the factor of the sum over all batches."""
        del examples
        return 1 / count

    def loss(self) -> tf.Tensor:
        """Returns the mean loss at the parameters, a scalar."""
        return self._evaluation.value(self._mean)

    @abc.abstractmethod
    def gradient(self) -> Structure:
        """Returns the gradient of the mean loss, in the structure of the parameters."""


class LinearizedOperator(BatchOperator):
    """An operator Jᵀ M J, with J the Jacobian of the outputs and M a matrix over the outputs."""

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
        """Linearizes a network and evaluates a loss at its outputs.

        Args:
          function: A function from the parameters to the network's outputs.
          parameters: A structure of floating tensors.
          loss: The loss.
          batch: Targets, weights and mask.
          summed: Whether to return sums, for a mean over several batches.
          product_dtype: The dtype of products, as in `linearize`; not of the gradient.
          unconnected: The treatment of unconnected parameters, as in `linearize`.
          check_deterministic: Whether the function is run twice, outside a `tf.function`.

        Raises:
          ValueError: If targets, weights or mask do not fit the outputs, a parameter is
            unconnected, or the product's dtype is unknown.
          TypeError: If a parameter is not floating, or the output is not one tensor of float32 or
            float64.
        """
        self._unconnected, self._loss = unconnected, loss
        self._linearization = linearize(
            function, parameters, unconnected=unconnected, product_dtype=product_dtype
        )
        if check_deterministic:
            self._linearization.check_deterministic()
        outputs = self._linearization.outputs
        super().__init__(parameters, evaluate(loss, outputs, batch), summed)
        # All outputs of the network, including those that a mask hides from the loss.
        self.outputs = outputs
        self._function = None if product_dtype is None else function
        self._jacobian_products: Callable[[tf.Tensor], tf.Tensor] | None = None

    @property
    def connected(self) -> list[bool]:
        """Whether the outputs depend on each parameter, in the order of `tf.nest.flatten`."""
        return self._linearization.connected

    @abc.abstractmethod
    def _output_product(self, tangents: tf.Tensor) -> tf.Tensor:
        """Returns M u for tangents u of the outputs."""

    def gradient(self) -> Structure:
        """Returns the gradient of the mean loss, in the structure of the parameters."""
        linearization = self._linearization
        if self._function is not None:
            # Products may be rounded; the gradient, which gives a step's direction, may not.
            point = tf.nest.pack_sequence_as(self._parameters, self._leaves)
            linearization = linearize(self._function, point, unconnected=self._unconnected)
        return linearization.vjp(self._evaluation.gradient(self._mean))

    def quadratic_form(self, vector: Structure) -> tf.Tensor:
        """Returns <v, A v> = <J v, M J v>, by one forward-mode pass and no backward pass.

        Args:
          vector: A structure like the parameters, or a flat vector of shape [P].

        Returns:
          A scalar of the outputs' dtype.

        Raises:
          ValueError: If the structure or a shape differs from the parameters'.
          TypeError: If a dtype differs.
        """
        structure = self.unflatten(vector) if self._form.rank(vector) else vector
        pushed = self._linearization.jvp(structure)
        return tf.reduce_sum(pushed * self._output_product(pushed))

    def _product(self, vector: Structure) -> Structure:
        pushed = self._linearization.jvp(vector)
        return self._linearization.vjp(self._output_product(pushed))

    def _products(self, rows: tf.Tensor) -> tf.Tensor:
        if not self._pays_by_jacobian(rows):
            return super()._products(rows)
        if not tf.executing_eagerly():
            return self._by_jacobian(rows)
        if self._jacobian_products is None:
            self._jacobian_products = tf.function(self._by_jacobian, autograph=False)
        return self._jacobian_products(rows)

    def _pays_by_jacobian(self, rows: tf.Tensor) -> bool:
        """Whether many products are cheaper with J as a matrix."""
        # A product with that takes 4 P operations for each output, where dense layers take about
        # 8 P for each example, and layers that share weights take more.
        per_example, count = components(self.outputs), rows.shape[0]
        if per_example is None or self._function is not None:
            return False
        entries = self.outputs.shape.num_elements() * self.shape[0]
        few = per_example <= _MOST_NUMBERS and entries <= _LARGEST_JACOBIAN
        return few and count is not None and count >= _FEWEST_VECTORS

    def _by_jacobian(self, rows: tf.Tensor) -> tf.Tensor:
        try:
            jacobian = rows_by_examples(
                lambda u: self.flatten(self._linearization.vjp(u)), self.outputs
            )
        except NoRuleError:
            return super()._products(rows)
        shape = self.outputs.shape

        def output_product(u: tf.Tensor) -> tf.Tensor:
            return tf.reshape(self._output_product(tf.reshape(u, shape)), [-1])

        pushed = tf.matmul(rows, jacobian, transpose_b=True)
        return tf.matmul(on_rows(output_product, pushed), jacobian)


def evaluate(loss: losses.Loss, outputs: Structure, batch: Batch) -> losses.Evaluation:
    """Evaluates a loss at a network's outputs.

    Args:
      loss: The loss.
      outputs: The outputs, which must be a single tensor.
      batch: Targets, weights and mask.

    Returns:
      The evaluation.

    Raises:
      ValueError: If targets, weights or mask do not fit the outputs.
      TypeError: If the outputs are not one tensor of float32 or float64.
    """
    if tf.nest.is_nested(outputs):
        raise TypeError(
            "Expected a network with one output tensor, got the structure "
            f"{structures.describe(outputs)}."
        )
    outputs = tf.convert_to_tensor(outputs)
    return loss.evaluate(outputs, tf.convert_to_tensor(batch.targets), batch.weights, batch.mask)
