from __future__ import annotations

import tensorflow as tf

from custom_op.losses.base import MeanLoss
from custom_op.losses.targets import ROUNDING, Bounds


class Poisson(MeanLoss):
    """eᶻ - y z, the mean over all elements; targets are counts (or rates) of z's shape.

    The negative log-likelihood of counts with the rate eᶻ, without log y!, which does not depend
    on z (PyTorch's `PoissonNLLLoss`; Keras' `poisson` takes the rate eᶻ in the place of z).
    """

    def prepare(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns targets in z's dtype."""
        return tf.cast(targets, outputs.dtype)

    def target_bounds(self, outputs: tf.Tensor, targets: tf.Tensor) -> Bounds:
        """Returns 0 and infinity."""
        del outputs
        return Bounds(
            -ROUNDING,
            targets.dtype.max,
            "counts of at least 0",
            "for values of either sign take a squared error",
        )

    def terms(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns eᶻ - y z."""
        return tf.exp(outputs) - tf.cast(targets, outputs.dtype) * outputs

    def term_gradients(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns eᶻ - y."""
        return tf.exp(outputs) - tf.cast(targets, outputs.dtype)

    def term_hessian_products(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns eᶻ u, for the vector u."""
        del targets
        return tf.exp(outputs) * vector

    def sample(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws counts with the rate eᶻ."""
        rates = tf.exp(outputs)
        return tf.random.stateless_poisson(tf.shape(rates), seed, rates, dtype=outputs.dtype)
