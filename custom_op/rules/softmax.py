"""Rules for the softmax family, and for the cross entropies that TensorFlow fuses with it."""

from __future__ import annotations

import tensorflow as tf

from custom_op.registry import LinearMap, register_r_forward


@register_r_forward("Softmax")
def softmax(op: tf.Operation) -> LinearMap:
    """R(s) = s ⊙ R(x) - s <s, R(x)>, row by row."""

    def tangent_map(t: tf.Tensor) -> tf.Tensor:
        weighted = op.outputs[0] * t
        return weighted - op.outputs[0] * tf.reduce_sum(weighted, -1, keepdims=True)

    return tangent_map


@register_r_forward("LogSoftmax")
def log_softmax(op: tf.Operation) -> LinearMap:
    """R(log s) = R(x) - <s, R(x)>, row by row."""
    probabilities = tf.exp(op.outputs[0])
    return lambda t: t - tf.reduce_sum(probabilities * t, -1, keepdims=True)


@register_r_forward("SoftmaxCrossEntropyWithLogits")
def softmax_cross_entropy(op: tf.Operation) -> LinearMap:
    """The loss -<l, log s> of each row and, as second output, its gradient s - l in the logits."""
    # R(loss) = <s Σl - l, R(z)> - <log s, R(l)> and R(s - l) = s ⊙ R(z) - s <s, R(z)> - R(l).
    # TensorFlow's gradient of the second output leaves the labels out.
    logits, labels = op.inputs
    log_probabilities = tf.nn.log_softmax(logits)
    probabilities = tf.exp(log_probabilities)
    shape = tf.shape(op.outputs[1])

    def tangent_map(z: tf.Tensor | None, label: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        loss, gradient = [], []
        if z is not None:
            weighted = probabilities * z
            total = tf.reduce_sum(weighted, -1, keepdims=True)
            mass = tf.reduce_sum(labels, -1)
            loss.append(mass * total[..., 0] - tf.reduce_sum(labels * z, -1))
            gradient.append(weighted - probabilities * total)
        if label is not None:
            loss.append(-tf.reduce_sum(log_probabilities * label, -1))
            gradient.append(-label)
        return (
            tf.broadcast_to(sum(loss[1:], loss[0]), shape[:1]),
            tf.broadcast_to(sum(gradient[1:], gradient[0]), shape),
        )

    return tangent_map


@register_r_forward("SparseSoftmaxCrossEntropyWithLogits")
def sparse_softmax_cross_entropy(op: tf.Operation) -> LinearMap:
    """The loss -log s[l] of each row and, as second output, its gradient in the logits."""
    logits, labels = op.inputs
    probabilities = tf.nn.softmax(logits)

    def tangent_map(z: tf.Tensor, _: None) -> tuple[tf.Tensor, tf.Tensor]:
        weighted = probabilities * z
        total = tf.reduce_sum(weighted, -1, keepdims=True)
        chosen = tf.gather(z, labels, axis=-1, batch_dims=1)
        return total[..., 0] - chosen, weighted - probabilities * total

    return tangent_map
