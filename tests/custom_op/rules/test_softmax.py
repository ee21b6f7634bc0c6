"""Rules of the softmax family and of the fused cross entropies, labels included."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(12)
LOGITS = _random.normal(size=(2, 4))
# Not of mass 1: the derivative is that of what the kernel computes.
LABELS = _random.uniform(size=(2, 4))
CLASSES = np.array([3, 0])


def _entropies(p):
    logits, labels = p
    return {
        "soft": tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=logits, labels=labels),
        "labels": tf.nn.softmax_cross_entropy_with_logits(labels, tf.constant(LOGITS)),
        "broadcast": tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=logits[:1], labels=labels),
        "sparse": tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=CLASSES),
    }


CASES = {
    "softmax": (lambda x: {"s": tf.nn.softmax(x), "log": tf.nn.log_softmax(x)}, LOGITS),
    "log_sum_exp": (lambda x: tf.reduce_logsumexp(x, 1), LOGITS),
    "entropies": (_entropies, (LOGITS, LABELS)),
}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    custom_op.check_rule(*CASES[case])


def test_the_gradient_of_a_fused_loss_in_its_labels():
    # TensorFlow's own answer is zero. The gradient is s Σl - l.
    def gradient(labels):
        logits = tf.constant(LOGITS)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
        return tape.gradient(value, logits)

    v = tf.constant(_random.normal(size=(2, 4)))
    expected = tf.nn.softmax(LOGITS) * tf.reduce_sum(v, -1, keepdims=True) - v
    got = custom_op.jvp(gradient, tf.constant(LABELS), v)[1]
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


def test_softmax_of_extreme_logits():
    logits = tf.constant([[0.0, 1000.0], [1000.0, 0.0]])
    t = tf.constant([[1.0, 2.0], [3.0, 5.0]])
    _, tangent = custom_op.jvp(tf.nn.log_softmax, logits, t)
    np.testing.assert_array_equal(tangent, [[-1.0, 0.0], [0.0, 2.0]])
    _, tangent = custom_op.jvp(tf.nn.softmax, logits, t)
    np.testing.assert_array_equal(tangent, np.zeros((2, 2)))
