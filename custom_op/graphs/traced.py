"""A piece of a graph that is traced in one place and run in another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op.graphs.copying import Copies


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
        captured = self._concrete.captured_inputs
        # Sizes and places stay constants: kernels and gradients of lists read them while traced.
        self._constants = [_whole_numbers(tensor) for tensor in captured]
        self.residuals = [
            tensor
            for tensor, constant in zip(captured, self._constants, strict=True)
            if constant is None
        ]
        self._call: Any = None

    def inline(
        self, arguments: Sequence[tf.Tensor], residuals: Sequence[tf.Tensor]
    ) -> list[tf.Tensor | None]:
        """Copies the traced operations into the current graph and returns the results."""
        graph = tf.compat.v1.get_default_graph()
        handed = iter(residuals)
        captured = [
            next(handed) if constant is None else tf.constant(constant)
            for constant in self._constants
        ]
        values = [
            # An identity brings what belongs to an outer graph into this one.
            value if getattr(value, "graph", None) is graph else tf.identity(value)
            for value in (*arguments, *captured)
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
            # A size of unknown rank stays one: a list's operations take a scalar for -1 or refuse.
            kept = [
                tf.TensorSpec(None if like.shape.rank is None else tensor.shape, tensor.dtype)
                for tensor, like in zip(residuals, self.residuals, strict=True)
            ]
            self._call = tf.function(self.inline, autograph=False).get_concrete_function(
                self._like, kept
            )
        return self._call(list(arguments), list(residuals))


def _whole_numbers(tensor: tf.Tensor) -> np.ndarray | None:
    """Returns the value of a small constant of whole numbers, and None for all else."""
    size = tensor.shape.num_elements()
    if not tensor.dtype.is_integer or size is None or size > 16:
        return None
    return tf.get_static_value(tensor)
