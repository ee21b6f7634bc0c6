"""The Gauss-Newton matrix of a loss, G = Jᵀ H J, as a linear operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op import losses, structures
from custom_op.linearization import Linearization, linearize

Structure = Any


class GaussNewton:
    """G = Jᵀ H_ℓ J at one point and on one batch (Schraudolph 2002).

    J is the Jacobian of the network's outputs z in the parameters and H_ℓ the Hessian of the mean
    loss in z. G is symmetric and, for a convex loss, positive semidefinite. A product is
    differentiable, in the vector and (unless they are stopped) in the parameters.

    Attributes:
      outputs: z, from the forward pass that the linearization ran.
      shape: (P, P), with P the number of parameters.
      dtype: The parameters' dtype (of the first, where they differ).
    """

    def __init__(
        self,
        linearization: Linearization,
        parameters: Structure,
        loss: losses.Loss,
        targets: tf.Tensor,
    ):
        self._linearization = linearization
        self._parameters = parameters
        self._leaves = structures.flatten_floating(parameters, "parameters")
        self._loss = loss
        self._targets = targets
        size = sum(_size(leaf) for leaf in self._leaves)
        self.outputs = linearization.outputs
        self.shape = (size, size)
        self.dtype = self._leaves[0].dtype

    def loss(self) -> tf.Tensor:
        """Returns the mean loss at the parameters, a scalar."""
        return self._loss.value(self.outputs, self._targets)

    def gradient(self) -> Structure:
        """Returns the gradient of the mean loss, in the structure of the parameters."""
        return self._linearization.vjp(self._loss.gradient(self.outputs, self._targets))

    def matvec(self, vector: Structure) -> Structure:
        """Returns G v.

        Args:
          vector: A structure like the parameters, or a flat vector of shape [P].

        Returns:
          The product, in the form of the vector.

        Raises:
          ValueError: If the structure or a shape differs from the parameters'.
          TypeError: If a dtype differs.
        """
        if self._is_flat(vector):
            return self._flatten(self.matvec(self._unflatten(vector)))
        pushed = self._linearization.jvp(vector)
        return self._linearization.vjp(
            self._loss.hessian_product(self.outputs, self._targets, pushed)
        )

    def __matmul__(self, vector: Structure) -> Structure:
        """Returns G v, as `matvec` does."""
        return self.matvec(vector)

    def to_dense(self) -> tf.Tensor:
        """Returns G as a [P, P] matrix, a column at a time; for small networks."""
        columns = tf.map_fn(
            lambda unit: self._flatten(self.matvec(self._unflatten(unit))),
            tf.eye(self.shape[0], dtype=self.dtype),
        )
        return tf.transpose(columns)

    def _is_flat(self, vector: Structure) -> bool:
        if tf.nest.is_nested(vector):
            return False
        if tf.nest.is_nested(self._parameters):
            return True
        # The parameters are one tensor: only its rank tells a flat vector from a tensor like it.
        return len(vector.shape) == 1 and self._leaves[0].shape.rank != 1

    def _flatten(self, structure: Structure) -> tf.Tensor:
        return tf.concat([tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(structure)], 0)

    def _unflatten(self, vector: tf.Tensor) -> Structure:
        dtypes = sorted({leaf.dtype.name for leaf in self._leaves})
        if len(dtypes) > 1:
            raise TypeError(
                f"A flat vector needs parameters of one dtype, got {dtypes}; pass a structure."
            )
        if not tf.is_tensor(vector):
            vector = tf.convert_to_tensor(vector, self.dtype)
        vector = tf.convert_to_tensor(vector)
        if vector.dtype != self.dtype:
            raise TypeError(
                f"Expected a flat vector of dtype {self.dtype.name}, got {vector.dtype.name}; "
                "cast it first."
            )
        if not vector.shape.is_compatible_with([self.shape[0]]):
            raise ValueError(
                f"Expected a flat vector of shape ({self.shape[0]},), got {vector.shape}."
            )
        pieces = tf.split(vector, [_size(leaf) for leaf in self._leaves])
        return tf.nest.pack_sequence_as(
            self._parameters,
            [
                tf.reshape(piece, leaf.shape)
                for piece, leaf in zip(pieces, self._leaves, strict=True)
            ],
        )


def _size(leaf: tf.Tensor) -> int:
    size = leaf.shape.num_elements()
    if size is None:
        raise ValueError(f"Expected parameters of static shapes, got {leaf.shape}.")
    return size


def gauss_newton(
    function: Callable[[Structure], tf.Tensor],
    parameters: Structure,
    loss: str | losses.Loss,
    targets: tf.Tensor,
) -> GaussNewton:
    """Returns the Gauss-Newton operator of a network and a loss on one batch.

    Args:
      function: Takes the parameters and returns the network's outputs, one floating tensor whose
        first axis counts examples.
      parameters: A structure of floating tensors of static shapes.
      loss: A loss of `custom_op.losses`, or its name.
      targets: What the loss compares the outputs with.

    Returns:
      The operator; its forward pass has run.

    Raises:
      ValueError: If the loss is unknown, targets and outputs do not fit, a parameter is
        unconnected, or its shape is not static.
      TypeError: If a parameter is not floating, or the output is not one tensor of float32 or
        float64.
    """
    loss = losses.get(loss)
    targets = tf.convert_to_tensor(targets)
    linearization = linearize(function, parameters)
    if tf.nest.is_nested(linearization.outputs):
        raise TypeError(
            "Expected a network with one output tensor, got the structure "
            f"{structures.describe(linearization.outputs)}."
        )
    loss.check(linearization.outputs, targets)
    return GaussNewton(linearization, parameters, loss, targets)
