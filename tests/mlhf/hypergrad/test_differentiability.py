"""Operations whose second derivatives are silently wrong are refused."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad as hg
from mlhf.hypergrad.binding import bind
from tests.mlhf.hypergrad.small_problem import WEIGHTS, D, make


def test_operations_with_wrong_second_derivatives_are_refused():
    def standardised(w, h, step):
        mean, variance = tf.nn.moments(w["w"], [0])
        return h["l2"] * tf.reduce_sum(((w["w"] - mean) / tf.sqrt(variance)) ** 3)

    with pytest.raises(ValueError, match="tf.nn.moments"):
        hg.reverse(make(standardised), WEIGHTS, {"l2": 0.1})
    bind(make(standardised, check_layers=False), WEIGHTS, {"l2": 0.1})

    x = tf.constant([[1.0, -0.5, 0.2], [0.3, 0.8, -1.0]], D)

    def cross_entropy(own):
        def loss(w, h, step):
            logits = x * w["w"]
            targets = tf.nn.softmax(h["labels"])
            if own:
                return tf.reduce_mean(hg.softmax_cross_entropy(targets, logits))
            return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))

        return loss

    labels = np.array([[0.3, -0.2, 0.5], [0.1, 0.9, -0.3]])
    with pytest.raises(ValueError, match="'labels'.*wrong to second order"):
        hg.reverse(make(cross_entropy(False)), WEIGHTS, {"labels": labels})

    def end(labels):
        targets = np.exp(labels) / np.exp(labels).sum(-1, keepdims=True)
        w = WEIGHTS["w"].numpy()
        p = np.exp(x * w) / np.exp(x * w).sum(-1, keepdims=True)
        w = w - 0.1 * np.mean((p - targets) * x.numpy(), 0)
        return np.sum((w - 1) ** 2)

    found = hg.reverse(make(cross_entropy(True), steps=1), WEIGHTS, {"labels": labels})
    expected = np.zeros([2, 3])
    for index in np.ndindex(2, 3):
        shift = np.zeros([2, 3])
        shift[index] = 1e-5
        expected[index] = (end(labels + shift) - end(labels - shift)) / 2e-5
    np.testing.assert_allclose(found.hypergradient["labels"], expected, rtol=1e-6, atol=1e-9)


def test_targets_are_followed_into_functions_loops_and_branches():
    x = tf.constant([[1.0, -0.5, 0.2], [0.3, 0.8, -1.0]], D)

    def cross_entropy(w, targets):
        entropy = tf.nn.softmax_cross_entropy_with_logits(targets, x * w["w"])
        return tf.reduce_mean(entropy)

    called = tf.function(cross_entropy)
    nested = tf.function(lambda w, targets: 2 * called(w, tf.nn.softmax(targets)))

    @tf.function
    def prepared(targets, l2):
        return tf.nn.softmax(targets), l2**2

    def looped(w, targets):
        # The targets arrive in the second round.
        def body(i, total, waiting, ready):
            return i + 1, total + cross_entropy(w, ready), waiting, waiting

        start = [0, tf.zeros([], D), targets, tf.zeros_like(targets)]
        return tf.while_loop(lambda i, *_: i < 3, body, start, maximum_iterations=3)[1]

    def chosen(w, targets):
        return tf.cond(
            w["w"][0] > 0, lambda: cross_entropy(w, targets), lambda: tf.reduce_sum(w["w"] ** 2)
        )

    hyper = {"labels": np.array([[0.3, -0.2, 0.5], [0.1, 0.9, -0.3]]), "l2": 0.1}
    for loss in (called, nested, looped, chosen):

        def train(w, h, step, loss=loss):
            targets, l2 = prepared(h["labels"], h["l2"])
            return loss(w, targets) + l2 * tf.reduce_sum(w["w"] ** 2)

        def fixed(w, h, step, loss=loss):
            # The same functions; only their other argument depends on a hyperparameter.
            targets, l2 = prepared(tf.zeros([2, 3], D), h["l2"])
            return loss({"w": l2 * w["w"]}, targets)

        with pytest.raises(ValueError, match="'labels'.*wrong to second order"):
            bind(make(train), WEIGHTS, hyper)
        bind(make(fixed), WEIGHTS, {"l2": 0.1})
