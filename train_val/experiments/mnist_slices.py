"""MNIST in the slices of Maclaurin et al. 2015, and their networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from train_val.data.mnist import load_mnist


class Examples(NamedTuple):
    """Some examples."""

    images: tf.Tensor  # float32 [N, 784]
    labels: tf.Tensor  # int32 [N]


def load_slices(data_dir: str | None, sizes: Sequence[int], centred: bool = True) -> list[Examples]:
    """Cuts the 70,000 images, training images first, into consecutive slices.

    Args:
      data_dir: The folder of the files, as for `load_mnist`.
      sizes: The slices' lengths.
      centred: Whether the mean training image is subtracted from pixels / 255.

    Returns:
      A set of examples for each slice.

    Raises:
      ValueError: If the slices have more images than there are.
    """
    parts = [load_mnist(data_dir, part, "") for part in ("meta_train", "train", "test")]
    pixels = np.concatenate([part.images for part in parts]).reshape(-1, 784)
    labels = np.concatenate([part.labels for part in parts])
    images = pixels.astype(np.float32)
    images /= 255
    if centred:
        images -= images[:60_000].mean(0)
    ends = np.cumsum(sizes)
    if ends[-1] > len(images):
        raise ValueError(f"Expected slices of at most {len(images):,} images, got {ends[-1]:,}.")
    return [
        Examples(tf.constant(images[end - size : end]), tf.constant(labels[end - size : end]))
        for end, size in zip(ends, sizes, strict=True)
    ]


def tanh_network(weights: Any, images: tf.Tensor) -> tf.Tensor:
    """Returns the logits [N, 10] of dense layers, weights [W_1, b_1, W_2, ...], tanh between."""
    for i in range(0, len(weights) - 2, 2):
        images = tf.tanh(images @ weights[i] + weights[i + 1])
    return images @ weights[-2] + weights[-1]


def shapes_of(sizes: Sequence[int]) -> list[list[int]]:
    """Returns the shapes of W_1, b_1, W_2, ... for layers of these sizes."""
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return [shape for a, b in pairs for shape in ([a, b], [b])]


def normal_weights(sizes: Sequence[int], scale: float, seed: int) -> list[tf.Tensor]:
    """Returns normally distributed weights and biases, all of the same deviation, float32."""
    random = np.random.default_rng(seed)
    return [
        tf.constant(scale * random.normal(size=shape), tf.float32) for shape in shapes_of(sizes)
    ]


def cross_entropy(weights: Any, examples: Examples) -> tf.Tensor:
    """Returns the mean cross entropy of the network on examples."""
    logits = tanh_network(weights, examples.images)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(examples.labels, logits))


@tf.function
def error_rate(weights: Any, examples: Examples) -> tf.Tensor:
    """Returns the fraction of examples that are classified wrong."""
    guess = tf.argmax(tanh_network(weights, examples.images), 1, tf.int32)
    return 1 - tf.reduce_mean(tf.cast(guess == examples.labels, tf.float32))
