"""Images of noise that stand for MNIST's."""

import numpy as np
import tensorflow as tf

from train_val.experiments import mnist_slices

_CENTRES = np.random.default_rng(0).normal(size=(10, 784))


def examples(count, seed=0):
    """Ten clouds that a linear classifier tells apart."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count)
    images = _CENTRES[labels] + random.normal(size=(count, 784))
    return mnist_slices.Examples(
        tf.constant(0.1 * images, tf.float32), tf.constant(labels, tf.int32)
    )
