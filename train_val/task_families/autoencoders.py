"""Deep autoencoders of sigmoid units, on which Hessian-free optimization was first shown.

Hinton and Salakhutdinov (Science 2006) trained them after pretraining; without it, Martens ("Deep
learning via Hessian-free optimization", ICML 2010) and Sutskever, Martens, Dahl and Hinton ("On the
importance of initialization and momentum in deep learning", ICML 2013).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_count
from train_val.data.mnist import load_mnist
from train_val.problems.array_problem import ArrayTask, Score

# Units from the pixels to the code; the decoder has them the other way round.
_CURVES = (784, 400, 200, 100, 50, 25, 6)
_MNIST = (784, 1000, 500, 250, 30)
# Martens' sparse initialization: a unit's incoming connections that are not 0.
_CONNECTIONS = 15
_SIDE = 28
# Places along a curve at which its distance to a pixel is taken.
_PLACES = 48


def curves(examples: int = 20_000, shrink: int = 1) -> ArrayTask:
    """Returns the autoencoder of CURVES: images of curves through three random points.

    The original images are not generally available; these are made by their description, strokes of
    28 by 28 pixels with intensities from 0 to 1, so that errors compare with published ones in size
    only.

    Args:
      examples: The number of images to train on; half as many test.
      shrink: The number that units of hidden layers are divided by.
    """
    check_count("examples", examples)
    images = curve_images(examples + max(1, examples // 2), seed=0)
    return _task(images[:examples], images[examples:], _CURVES, shrink)


def mnist_autoencoder(data_dir: str = "", shrink: int = 1, examples: int = 60_000) -> ArrayTask:
    """Returns the autoencoder of MNIST's digits, of 30 numbers in the middle.

    Args:
      data_dir: The folder of MNIST's four files; an empty one downloads with tensorflow-datasets.
      shrink: The number that units of hidden layers are divided by.
      examples: The number of images to train on, at most 60,000.
    """
    check_count("examples", examples)
    parts = [load_mnist(data_dir or None, p, "") for p in ("meta_train", "train", "test")]
    pixels = [part.images.reshape(len(part.images), -1).astype(np.float32) / 255 for part in parts]
    train = np.concatenate(pixels[:2])
    return _task(train[:examples], pixels[2], _MNIST, shrink)


def curve_images(count: int, seed: int) -> np.ndarray:
    """Draws curves through three random points each.

    Args:
      count: The number of images.
      seed: The seed of the points.

    Returns:
      Intensities from 0 to 1, float32 [count, 784].
    """
    random = np.random.default_rng(seed)
    start, middle, end = random.uniform(3, _SIDE - 4, (3, count, 1, 2))
    t = np.linspace(0, 1, _PLACES)[:, None]
    # The parabola that is at the points at t = 0, 1/2, 1.
    along = (
        start * (1 - t) * (1 - 2 * t) + middle * 4 * t * (1 - t) + end * t * (2 * t - 1)
    ).astype(np.float32)
    axis = np.arange(_SIDE, dtype=np.float32)
    images = np.empty((count, _SIDE, _SIDE), np.float32)
    for first in range(0, count, 500):
        part = along[first : first + 500]
        rows = (part[:, :, None, 0] - axis) ** 2
        columns = (part[:, :, None, 1] - axis) ** 2
        square = np.min(rows[:, :, :, None] + columns[:, :, None, :], axis=1)
        images[first : first + 500] = np.clip(1.6 - np.sqrt(square), 0, 1)
    return images.reshape(count, -1)


def _task(train: np.ndarray, test: np.ndarray, units: Sequence[int], shrink: int) -> ArrayTask:
    check_count("shrink", shrink)
    hidden = [max(1, count // shrink) for count in units[1:]]
    return ArrayTask(
        (train, train),
        (test, test),
        "sigmoid_cross_entropy",
        build=functools.partial(_build, (units[0], *hidden)),
        score=Score("squared error", squared_error),
    )


def squared_error(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Returns Σ (σ(z) - x)² over the pixels, the mean over the images, as the papers report it."""
    return tf.reduce_mean(tf.reduce_sum(tf.square(tf.sigmoid(outputs) - targets), 1))


def _build(units: Sequence[int], seed: int) -> keras.Model:
    """Returns the network: sigmoid units, linear ones in the middle, logits at the end."""
    random = np.random.default_rng(seed)
    sizes = (*units, *reversed(units[:-1]))
    layers: list[keras.layers.Layer] = [keras.Input((units[0],))]
    for number, count in enumerate(sizes[1:], start=1):
        is_code, is_last = number == len(units) - 1, number == len(sizes) - 1
        name = "code" if is_code else "pixels" if is_last else f"hidden{number}"
        layers.append(
            keras.layers.Dense(
                count,
                None if is_code or is_last else "sigmoid",
                kernel_initializer=_sparse(random),
                name=name,
            )
        )
    return keras.Sequential(layers, name="autoencoder")


def _sparse(random: np.random.Generator) -> Callable[..., tf.Tensor]:
    """Returns an initializer: 15 connections per unit from N(0, 1), the others 0."""

    def initialize(shape: Sequence[int], dtype: str | None = None) -> tf.Tensor:
        rows, columns = shape
        kernel = np.zeros((rows, columns))
        for unit in range(columns):
            chosen = random.choice(rows, min(_CONNECTIONS, rows), replace=False)
            kernel[chosen, unit] = random.normal(size=len(chosen))
        return tf.constant(kernel, dtype or "float32")

    return initialize
