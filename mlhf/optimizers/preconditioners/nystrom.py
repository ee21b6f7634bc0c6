"""The randomized Nyström preconditioner (Frangella, Tropp and Udell 2021, arXiv 2110.02820)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Sketch(NamedTuple):
    """Â = U diag(Λ) Uᵀ, an approximation of a positive semidefinite matrix A from below.

    Attributes:
      vectors: U, [P, r], with orthonormal columns.
      values: Λ, [r], the largest first, at least 0.
      trace: An unbiased estimate of A's trace.
    """

    vectors: tf.Tensor
    values: tf.Tensor
    trace: tf.Tensor

    def preconditioner(self, damping: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the approximate inverse of A + λ I, up to a factor.

        It is (Λᵣ + λ) U (Λ + λ)⁻¹ Uᵀ + I - U Uᵀ, with Λᵣ the smallest value of the sketch (section
        5 of the paper).

        Args:
          damping: λ, positive, a scalar.

        Returns:
          A function of a vector [P].
        """
        floor = self.values[-1] + damping
        # Without damping, where the sketch is zero, it changes nothing.
        shifted = self.values + damping
        scale = tf.where(shifted > 0, floor / tf.where(shifted > 0, shifted, 1), 1) - 1

        def apply(vector: tf.Tensor) -> tf.Tensor:
            inside = tf.linalg.matvec(self.vectors, vector, transpose_a=True)
            return vector + tf.linalg.matvec(self.vectors, scale * inside)

        return apply


def sketch(
    products: Callable[[tf.Tensor], tf.Tensor],
    size: int,
    rank: int,
    dtype: tf.DType,
    seed: tf.Tensor,
) -> Sketch:
    """Approximates a matrix by its products with random vectors (algorithm 2.1 of the paper).

    Args:
      products: The products with the rows of an [r, P] matrix, as rows.
      size: P.
      rank: r; at most P are used.
      dtype: The dtype of vectors.
      seed: Two integers, as for `tf.random.stateless_*`.

    Returns:
      The sketch. It is zero, and preconditions nothing, where products are not finite.
    """
    rank = min(rank, size)
    random = tf.random.stateless_normal([size, rank], seed, dtype=dtype)
    basis, _ = tf.linalg.qr(random)
    images = tf.transpose(products(tf.transpose(basis)))
    is_finite = tf.math.is_finite(tf.reduce_sum(images))
    images = tf.where(is_finite, images, tf.zeros_like(images))
    trace = tf.reduce_sum(basis * images) * (size / rank)
    # A small shift keeps the factorization from failing; it is taken off again.
    epsilon = float(np.finfo(dtype.as_numpy_dtype).eps)
    norm = tf.norm(images)
    shift = tf.where(norm > 0, np.sqrt(size) * epsilon * norm, tf.ones_like(norm))
    shifted = images + shift * basis
    crossing = tf.matmul(basis, shifted, transpose_a=True)
    crossing = 0.5 * (crossing + tf.transpose(crossing))
    # By eigenvalues, since Cholesky's factorization can still fail by rounding.
    values, vectors = tf.linalg.eigh(crossing)
    there = values > epsilon * values[-1]
    inverse = tf.where(there, tf.math.rsqrt(tf.where(there, values, 1)), tf.zeros_like(values))
    singular, left, _ = tf.linalg.svd(tf.matmul(shifted, vectors * inverse))
    return Sketch(left, tf.maximum(tf.square(singular) - shift, 0), trace)
