"""A piece of a graph that is traced in one place and run in another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from custom_op.copying import Copies


class Traced:
    """A function traced inside a graph, callable outside it once its captures are supplied.

    Attributes:
      residuals: The tensors of the graph around it that it reads, in order.
      outputs: Which of the function's results are tensors, and not None.
    """

    def __init__(self, function: Callable[..., Any], like: Sequence[tf.Tensor]):
        self._like = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in like]
        self.outputs: list[bool] = []

        def flat(*leaves):
            results = function(list(leaves))
            self.outputs = [result is not None for result in results]
            return [result for result in results if result is not None]

        # Kept: what it was traced into ends with it.
        self._concrete = tf.function(flat, autograph=False).get_concrete_function(*self._like)
        # A resource stays what it is; only tensors have to be handed over.
        self.residuals = list(self._concrete.captured_inputs)
        self._call: Any = None

    def inline(
        self, arguments: Sequence[tf.Tensor], residuals: Sequence[tf.Tensor]
    ) -> list[tf.Tensor | None]:
        """Copies the traced operations into the current graph and returns the results."""
        graph = tf.compat.v1.get_default_graph()
        values = [
            # An identity brings what belongs to an outer graph into this one.
            value if getattr(value, "graph", None) is graph else tf.identity(value)
            for value in (*arguments, *residuals)
        ]
        with tf.name_scope("traced"):
            copies = Copies(self._concrete.inputs, values)
            tensors = iter(copies.compute(self._concrete.outputs))
        return [next(tensors) if there else None for there in self.outputs]

    def __call__(
        self, arguments: Sequence[tf.Tensor], residuals: Sequence[tf.Tensor]
    ) -> list[tf.Tensor | None]:
        """Runs the function eagerly; it is built at the first call."""
        if self._call is None:
            kept = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in residuals]
            self._call = tf.function(self.inline, autograph=False).get_concrete_function(
                self._like, kept
            )
        return self._call(list(arguments), list(residuals))
