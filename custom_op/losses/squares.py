"""Squared errors, with the two divisors in common use."""

from __future__ import annotations

import tensorflow as tf

from custom_op.losses.base import MeanLoss


class SquaredError(MeanLoss):
    """½‖z - y‖²/B, with B the number of examples; its Hessian is I/B. MLHF's original loss.

    A term is an example, so weights and masks have the shape [B]. The model is N(z, I).
    """

    def prepare(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns targets in z's dtype."""
        return tf.cast(targets, outputs.dtype)

    def term_axes(self, outputs: tf.Tensor) -> int:
        """Returns 1: a term is an example."""
        return 1

    def terms(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns ½‖z - y‖², for each example."""
        squares = tf.square(outputs - tf.cast(targets, outputs.dtype))
        return 0.5 * tf.reduce_sum(squares, list(range(1, outputs.shape.rank)))

    def term_gradients(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns z - y."""
        return outputs - tf.cast(targets, outputs.dtype)

    def term_hessian_products(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns u, for the vector u."""
        del outputs, targets
        return vector

    def sample(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws from N(z, I)."""
        return outputs + tf.random.stateless_normal(tf.shape(outputs), seed, dtype=outputs.dtype)


class MeanSquaredError(MeanLoss):
    """(z - y)², the mean over all N elements, as in Keras; its Hessian is 2I/N.

    The model is N(z, I/2).
    """

    def prepare(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns targets in z's dtype."""
        return tf.cast(targets, outputs.dtype)

    def terms(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns (z - y)²."""
        return tf.square(outputs - tf.cast(targets, outputs.dtype))

    def term_gradients(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns 2 (z - y)."""
        return 2 * (outputs - tf.cast(targets, outputs.dtype))

    def term_hessian_products(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns 2u, for the vector u."""
        del outputs, targets
        return 2 * vector

    def sample(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws from N(z, I/2)."""
        shape, deviation = tf.shape(outputs), 0.5**0.5
        return outputs + deviation * tf.random.stateless_normal(shape, seed, dtype=outputs.dtype)
