"""A small problem that many tests change in one place."""

import tensorflow as tf

from mlhf import hypergrad as hg

D = tf.float64
WEIGHTS = {"w": tf.constant([0.5, -1.0, 2.0], D)}


def quadratic(w, h, step):
    return tf.reduce_sum(h["l2"] * w["w"] ** 2) + tf.reduce_sum(tf.sin(w["w"]))


def distance(w, h):
    return tf.reduce_sum((w["w"] - 1) ** 2)


def make(train=quadratic, outer=distance, steps=4, **options):
    options.setdefault("dynamics", hg.GradientDescent(0.1))
    return hg.Problem(train, outer, steps=steps, **options)
