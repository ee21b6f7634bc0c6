"""A square root of a Gauss-Newton matrix: residuals whose Jacobian is known as a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from custom_op import losses
from custom_op.graphs.batching.over_vectors import on_rows
from custom_op.operators.dense_jacobian import NoRuleError, components, rows_by_examples


class Root(NamedTuple):
    """R with G = Rᵀ R, and r with g = Rᵀ r, for the gradient g of the loss.

    For squared errors r are the residuals, times a constant, and R is their Jacobian.

    Attributes:
      rows: R, [M, P], with M the number of outputs.
      residuals: r, [M].
      output_root: The function u → S u of tangents of the outputs, [M], where Sᵀ S is the loss's
        Hessian.
    """

    rows: tf.Tensor
    residuals: tf.Tensor
    output_root: Callable[[tf.Tensor], tf.Tensor]


def root_of(
    pull: Callable[[tf.Tensor], tf.Tensor],
    loss: losses.Loss,
    evaluation: losses.Evaluation,
) -> Root:
    """Returns a root of the Gauss-Newton matrix of a loss that is a sum over examples.

    Call it inside a graph.

    Args:
      pull: The transposed product Jᵀ u, from a tensor like the outputs to a flat vector [P].
      loss: The loss.
      evaluation: The loss at the network's outputs z, of static shape [B, ...].

    Returns:
      The root. Directions of the outputs in which the loss is flat, though it has a slope there
      (by rounding, as of a saturated softmax), are left out of r.

    Raises:
      ValueError: If the outputs' shape is not static.
    """
    outputs = evaluation.outputs
    per_example = components(outputs)
    if per_example is None and outputs.shape.num_elements() == 1:
        per_example = 1
    if per_example is None:
        raise ValueError(
            "Expected outputs of a static shape whose first axis counts examples, got "
            f"{outputs.shape}."
        )
    size = outputs.shape.num_elements()
    try:
        jacobian = rows_by_examples(pull, outputs)
    except NoRuleError:
        shape = outputs.shape
        jacobian = on_rows(lambda u: pull(tf.reshape(u, shape)), tf.eye(size, dtype=outputs.dtype))
    slope = evaluation.gradient()
    if per_example == 1 or isinstance(loss, (losses.SquaredError, losses.MeanSquaredError)):
        curvature = tf.reshape(evaluation.hessian_product(tf.ones_like(outputs)), [-1])
        root = tf.sqrt(tf.maximum(curvature, 0))
        residuals = tf.math.divide_no_nan(tf.reshape(slope, [-1]), root)
        return Root(root[:, tf.newaxis] * jacobian, residuals, lambda u: root * u)
    blocks, inverses = _roots_of_blocks(evaluation, per_example)

    def apply(matrices: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        parted = tf.reshape(columns, [-1, per_example, columns.shape[-1]])
        return tf.reshape(tf.matmul(matrices, parted), columns.shape)

    residuals = apply(inverses, tf.reshape(slope, [size, 1]))[:, 0]
    return Root(
        apply(blocks, jacobian),
        residuals,
        lambda u: apply(blocks, tf.reshape(u, [size, 1]))[:, 0],
    )


def _roots_of_blocks(
    evaluation: losses.Evaluation, per_example: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns S with SᵀS = H for each example, and the pseudoinverses of its transpose."""
    outputs = evaluation.outputs
    unit = tf.eye(per_example, dtype=outputs.dtype)

    def column(one: tf.Tensor) -> tf.Tensor:
        vector = tf.broadcast_to(tf.reshape(one, outputs.shape[1:]), outputs.shape)
        return tf.reshape(evaluation.hessian_product(vector), [-1, per_example])

    hessians = tf.transpose(tf.map_fn(column, unit), [1, 0, 2])
    is_finite = tf.math.is_finite(tf.reduce_sum(hessians))
    # Decompositions of matrices that are not finite are errors on a CPU.
    hessians = tf.where(is_finite, hessians, unit)
    values, vectors = tf.linalg.eigh(0.5 * (hessians + tf.linalg.matrix_transpose(hessians)))
    smallest = per_example * float(np.finfo(outputs.dtype.as_numpy_dtype).eps)
    there = values > smallest * values[:, -1:]
    root = tf.sqrt(tf.where(there, values, tf.zeros_like(values)))
    inverse = tf.math.divide_no_nan(tf.ones_like(root), root)
    # Symmetric: S = V Λ^½ Vᵀ.
    factors = [
        tf.matmul(vectors * scale[:, tf.newaxis, :], vectors, transpose_b=True)
        for scale in (root, inverse)
    ]
    return factors[0], factors[1]
