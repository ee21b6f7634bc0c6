from __future__ import annotations

import tensorflow as tf

from custom_op.losses.base import MeanLoss, check_precision


class SoftmaxCrossEntropy(MeanLoss):
    """-log softmax(z)[y], the mean over rows of z [..., K].

    Targets are integer classes, of the shape of z without its last axis, or probabilities of z's
    shape, which need not sum to 1 and in which the value, the gradient and the Hessian product
    are differentiable too (TensorFlow's fused loss has the derivative 0 there).
    """

    def check(self, outputs, targets):
        """Checks shapes and dtypes, with integer classes as targets too."""
        check_precision(outputs)
        if not outputs.shape.rank:
            raise ValueError(
                f"SoftmaxCrossEntropy expected outputs of shape [..., K], got {outputs.shape}."
            )
        if targets.dtype.is_integer:
            if not outputs.shape[:-1].is_compatible_with(targets.shape):
                raise ValueError(
                    f"SoftmaxCrossEntropy expected integer targets of shape {outputs.shape[:-1]} "
                    f"for outputs of shape {outputs.shape}, got {targets.shape}; probabilities "
                    "have to be floating."
                )
        else:
            super().check(outputs, targets)

    def term_axes(self, outputs):
        """Returns all axes but the last: a term is a row."""
        return outputs.shape.rank - 1

    def terms(self, outputs, targets):
        """Returns -Σ y log softmax(z), for each row."""
        log_probabilities = tf.nn.log_softmax(outputs)
        if targets.dtype.is_integer:
            return -tf.gather(
                log_probabilities, targets, axis=-1, batch_dims=outputs.shape.rank - 1
            )
        return -tf.reduce_sum(tf.cast(targets, outputs.dtype) * log_probabilities, -1)

    def term_gradients(self, outputs, targets):
        """Returns m s - y, with s = softmax(z) and m = Σ y."""
        if targets.dtype.is_integer:
            targets = tf.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
            return tf.nn.softmax(outputs) - targets
        targets = tf.cast(targets, outputs.dtype)
        return _mass(outputs, targets) * tf.nn.softmax(outputs) - targets

    def term_hessian_products(self, outputs, targets, vector):
        """Returns m (s ⊙ u - s <s, u>), for the vector u."""
        probabilities = tf.nn.softmax(outputs)
        weighted = probabilities * vector
        product = weighted - probabilities * tf.reduce_sum(weighted, -1, keepdims=True)
        if not targets.dtype.is_integer:
            product *= _mass(outputs, targets)
        return product

    def sample(self, outputs, seed):
        """Draws classes with the probabilities softmax(z)."""
        rows = tf.reshape(outputs, [-1, outputs.shape[-1]])
        drawn = tf.random.stateless_categorical(rows, 1, seed, dtype=tf.int32)
        return tf.reshape(drawn, tf.shape(outputs)[:-1])

    def sampled_gradients(self, outputs, targets, seed):
        """Returns √m (s - one_hot(y)): a row of mass m counts as m rows."""
        gradients = super().sampled_gradients(outputs, targets, seed)
        if not targets.dtype.is_integer:
            gradients *= tf.sqrt(_mass(outputs, targets))
        return gradients


def _mass(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(targets, outputs.dtype), -1, keepdims=True)
