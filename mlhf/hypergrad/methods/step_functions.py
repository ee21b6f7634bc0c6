"""A step's gradient and second-order products, compiled once and called from outside of graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.hypergrad.methods import unroll
from mlhf.hypergrad.training import GradientProducts, Training


class StepFunctions:
    """The training loss of every step, at flat weights in NumPy arrays.

    All calls, forward and backward, use the same two concrete functions.
    """

    def __init__(self, training: Training, hyper: Any, seed: tf.Tensor):
        """Compiles the functions, unless they were compiled for this training before.

        Args:
          training: The training with the steps.
          hyper: The hyperparameters, tensors.
          seed: The seed, an int32 scalar.
        """
        self._training, self._seed = training, seed
        self._leaves = tf.nest.flatten(hyper)
        self._dtype = training.flat.dtype.as_numpy_dtype
        self._gradient, self._products = compiled(training)

    def gradient(self, vector: np.ndarray, step: int) -> tuple[tf.Tensor, np.ndarray]:
        """Returns a step's loss, and its gradient [P]."""
        loss, gradient = self._run(self._gradient, [vector], step)
        return loss, gradient.numpy()

    def products(self, vector: np.ndarray, direction: np.ndarray, step: int) -> GradientProducts:
        """Returns a step's gradient g, and with a direction u [P], H u and ∂<g, u>/∂λ."""
        return self._run(self._products, [vector, direction], step)

    def _run(self, function: Callable[..., Any], vectors: Sequence[np.ndarray], step: int) -> Any:
        tensors = [tf.constant(vector.astype(self._dtype, copy=False)) for vector in vectors]
        arguments = [*tensors, tf.constant(step), self._seed, *self._leaves]
        return unroll.run(self._training, function, *arguments)


def compiled(training: Training) -> tuple[Callable[..., Any], ...]:
    """Returns the gradient and the second-order products of a step, each traced once."""
    if "steps" not in training.functions:
        resolver, size, dtype = training.resolver, training.flat.size, training.flat.dtype

        def gradient(
            vector: tf.Tensor, step: tf.Tensor, seed: tf.Tensor, *leaves: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            rows = resolver.rows(resolver.pack(leaves), step)
            return training.gradient(vector, rows, step, seed)

        def products(
            vector: tf.Tensor,
            direction: tf.Tensor,
            step: tf.Tensor,
            seed: tf.Tensor,
            *leaves: tf.Tensor,
        ) -> GradientProducts:
            rows = resolver.rows(resolver.pack(leaves), step)
            return training.gradient_vjp(vector, direction, rows, step, seed)

        vector, number = tf.TensorSpec([size], dtype), tf.TensorSpec([], tf.int32)
        leaves = [
            tf.TensorSpec(shape, leaf_dtype)
            for shape, leaf_dtype in zip(resolver.leaf_shapes, resolver.leaf_dtypes, strict=True)
        ]
        training.functions["steps"] = tuple(
            tf.function(function, autograph=False).get_concrete_function(*specs, *leaves)
            for function, specs in [
                (gradient, [vector, number, number]),
                (products, [vector, vector, number, number]),
            ]
        )
    return training.functions["steps"]
