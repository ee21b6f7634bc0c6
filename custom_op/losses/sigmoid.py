from __future__ import annotations

import tensorflow as tf

from custom_op.losses.base import MeanLoss
from custom_op.losses.targets import ROUNDING, Bounds


class SigmoidCrossEntropy(MeanLoss):
    """-y log σ(z) - (1-y) log(1-σ(z)), the mean over all elements; targets of z's shape."""

    def prepare(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns targets in z's dtype."""
        return tf.cast(targets, outputs.dtype)

    def target_bounds(self, outputs: tf.Tensor, targets: tf.Tensor) -> Bounds:
        """Returns 0 and 1."""
        del outputs, targets
        return Bounds(
            -ROUNDING,
            1 + ROUNDING,
            "targets from 0 to 1, the probabilities of a yes",
            "for classes from 0 to K - 1 take softmax_cross_entropy, for labels of -1 and 1 give "
            "(targets + 1) / 2",
        )

    def terms(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns log(1 + eᶻ) - y z."""
        targets = tf.cast(targets, outputs.dtype)
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=outputs)

    def term_gradients(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns σ(z) - y."""
        return tf.sigmoid(outputs) - tf.cast(targets, outputs.dtype)

    def term_hessian_products(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns σ(z) (1 - σ(z)) u, for the vector u."""
        del targets
        # Not 1 - σ(z), which has no digits left where σ(z) is close to 1.
        return tf.sigmoid(outputs) * tf.sigmoid(-outputs) * vector

    def sample(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws ones with the probability σ(z), zeros otherwise."""
        uniform = tf.random.stateless_uniform(tf.shape(outputs), seed, dtype=outputs.dtype)
        return tf.cast(uniform < tf.sigmoid(outputs), outputs.dtype)
