"""Short trainings of many kinds, whose best rates and noise differ."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

import keras
import numpy as np

from train_val.data.cifar10 import load_cifar10
from train_val.data.digits import load_digits
from train_val.data.mnist import load_mnist
from train_val.networks import convnets
from train_val.task_families import families

_HELD_ASIDE = 2000
CHARACTERS = 96  # of the text; the rarest few share a code with others


@dataclasses.dataclass(frozen=True)
class Task:
    """A training: a network, its data, the batch and the number of steps."""

    data: Callable[[str], tuple[np.ndarray, np.ndarray]]
    network: Callable[..., keras.Model]
    loss: str
    outputs: int
    batch: int
    steps: int


@functools.cache
def images(data_dir: str, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Returns CIFAR-10 averaged to `side` x `side` pixels, each image standardised, and labels."""
    data = load_cifar10(data_dir, "train", "standard")
    squares = data.images.reshape(-1, side, 32 // side, side, 32 // side, 3)
    pixels = squares.mean((2, 4), dtype=np.float32)
    mean, deviation = pixels.mean((1, 2, 3), keepdims=True), pixels.std((1, 2, 3), keepdims=True)
    pixels -= mean
    pixels /= np.maximum(deviation, 8)
    return pixels, data.labels.astype(np.int32)


small_images = functools.partial(images, side=8)
middle_images = functools.partial(images, side=16)


@functools.cache
def friedman(data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns 20,000 examples of Friedman's first regression, inputs and targets standardised."""
    del data_dir
    random = np.random.default_rng(7)
    x = random.uniform(size=(20_000, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    y += 10 * x[:, 3] + 5 * x[:, 4] + random.normal(size=len(x))
    inputs = ((x - 0.5) * 12**0.5).astype(np.float32)
    return inputs, ((y - y.mean()) / y.std()).astype(np.float32)[:, None]


@functools.cache
def waves(data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns 10,000 examples of a smooth function of four numbers, without noise."""
    del data_dir
    x = np.random.default_rng(8).uniform(-1, 1, (10_000, 4))
    y = np.stack([np.sin(3 * x[:, 0] + 2 * x[:, 1] * x[:, 2]), np.cos(2 * x[:, 3]) * x[:, 1]], 1)
    return (x * 3**0.5).astype(np.float32), ((y - y.mean(0)) / y.std(0)).astype(np.float32)


@functools.cache
def digits(data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the digits that the package contains, standardised, and the labels."""
    parts = [load_digits(None, part, "") for part in ("train", "meta_train", "test")]
    images = np.concatenate([part.images for part in parts]).astype(np.float32)
    return (images - 4.884) / 6.017, np.concatenate([part.labels for part in parts])


@functools.cache
def mnist(data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns MNIST averaged to 14 x 14 pixels, standardised, and the labels."""
    data = load_mnist(data_dir, "train", "")
    images = data.images.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4), dtype=np.float32)
    return (images - 33.32) / 78.57, data.labels.astype(np.int32)


@functools.cache
def pixels(data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns MNIST at 14 x 14 pixels, standardised, and the pixels as targets, from 0 to 1."""
    images, _ = mnist(data_dir)
    return images, (images * 78.57 + 33.32).reshape(len(images), -1) / 255


@functools.cache
def text(data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns 20,000 pieces of 33 characters of Python's help: the first 32, and the last 32."""
    del data_dir
    characters = np.frombuffer(" ".join(topics.values()).encode("ascii", "replace"), np.uint8)
    _, codes = np.unique(characters, return_inverse=True)
    codes = codes.astype(np.int32) % CHARACTERS
    starts = np.random.default_rng(7).integers(0, len(codes) - 33, 20_000)
    pieces = codes[starts[:, None] + np.arange(33)]
    return pieces[:, :-1], pieces[:, 1:]


def transformer(
    shape: tuple[int, ...], outputs: int, seed: int = 0, width: int = 64, depth: int = 2
) -> keras.Model:
    """Returns a transformer: causal on codes, or on the rows of an image, with their mean."""
    layers, is_text = keras.layers, len(shape) == 1
    seeds = itertools.count(1000 * seed)

    def dense(size: int, name: str, activation: str | None = None) -> keras.layers.Layer:
        initial = keras.initializers.GlorotUniform(seed=next(seeds))
        return layers.Dense(size, activation, kernel_initializer=initial, name=name)

    inputs = keras.Input(shape)
    if is_text:
        initial = keras.initializers.RandomNormal(0, 1, seed)
        x = layers.Embedding(outputs, width, embeddings_initializer=initial, name="embed")(inputs)
    else:
        x = layers.Reshape((shape[0], shape[1] * shape[2]), name="rows")(inputs)
        x = dense(width, "into")(x)
    places = np.arange(shape[0])[:, None] / 1000.0 ** (np.arange(0, width, 2) / width)
    x += np.concatenate([np.sin(places), np.cos(places)], 1).astype(np.float32)
    for block in range(depth):
        y = layers.LayerNormalization(name=f"norm{block}")(x)
        initial = keras.initializers.GlorotUniform(seed=next(seeds))
        attention = layers.MultiHeadAttention(
            4, width // 4, kernel_initializer=initial, name=f"attention{block}"
        )
        x += attention(y, y, use_causal_mask=is_text)
        y = layers.LayerNormalization(name=f"inner_norm{block}")(x)
        x += dense(width, f"shrink{block}")(dense(4 * width, f"grow{block}", "gelu")(y))
    x = layers.LayerNormalization(name="last_norm")(x)
    if not is_text:
        x = layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(inputs, dense(outputs, "output")(x), name="transformer")


def recurrent(shape: tuple[int, ...], outputs: int, seed: int = 0, width: int = 64) -> keras.Model:
    """Returns a GRU on codes."""
    layers, initial = keras.layers, keras.initializers
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Embedding(
                outputs,
                width,
                embeddings_initializer=initial.RandomNormal(0, 1, seed),
                name="embed",
            ),
            layers.GRU(
                width,
                return_sequences=True,
                kernel_initializer=initial.GlorotUniform(seed),
                recurrent_initializer=initial.Orthogonal(seed=seed + 1),
                name="gru",
            ),
            layers.Dense(
                outputs, kernel_initializer=initial.GlorotUniform(seed + 2), name="output"
            ),
        ],
        name="recurrent",
    )


_mlp = functools.partial(families.mlp, width=96, depth=2, activation="relu")
_convnet = functools.partial(families.convnet, width=16, dense=128)
_residual = functools.partial(families.residual, width=16, depth=2)
_softmax = "softmax_cross_entropy"
_wide = functools.partial(families.convnet, width=48, dense=256)
_images = functools.partial(Task, small_images, loss=_softmax, outputs=10)
_middle = functools.partial(Task, middle_images, loss=_softmax, outputs=10)
TASKS = {
    "mlp, batch 32": _images(network=_mlp, batch=32, steps=150),
    "mlp, batch 512": _images(network=_mlp, batch=512, steps=150),
    "mlp, batch 128, 800 steps": _images(network=_mlp, batch=128, steps=800),
    "mlp, batch 64, 3000 steps": _images(network=_mlp, batch=64, steps=3000),
    "convnet, batch 64": _images(network=_convnet, batch=64, steps=100),
    "convnet, batch 256": _images(network=_convnet, batch=256, steps=100),
    "convnet, batch 1024": _images(network=_convnet, batch=1024, steps=60),
    "regression, batch 32": Task(friedman, _mlp, "squared_error", 1, 32, 400),
    "mnist, batch 256": Task(mnist, _convnet, _softmax, 10, 256, 100),
    "residual, batch 128": Task(middle_images, _residual, _softmax, 10, 128, 100),
    "convnet, batch 4096": _images(network=_convnet, batch=4096, steps=40),
    "wide convnet, batch 128": _middle(network=_wide, batch=128, steps=100),
    "wide convnet, batch 512": _middle(network=_wide, batch=512, steps=40),
    "wide mlp, batch 256": _images(
        network=functools.partial(families.mlp, width=512, depth=2, activation="relu"),
        batch=256,
        steps=100,
    ),
    "deep tanh mlp, batch 256": _images(
        network=functools.partial(families.mlp, width=256, depth=4, activation="tanh"),
        batch=256,
        steps=100,
    ),
    "wide residual, batch 256": _middle(
        network=functools.partial(families.residual, width=24, depth=2), batch=256, steps=60
    ),
    "mnist, wide convnet, batch 512": Task(
        mnist,
        functools.partial(families.convnet, width=32, dense=128),
        _softmax,
        10,
        512,
        60,
    ),
    "mnist's pixels, batch 128": Task(
        pixels,
        functools.partial(families.mlp, width=64, depth=3, activation="relu"),
        "squared_error",
        196,
        128,
        150,
    ),
    "regression, batch 512": Task(
        friedman,
        functools.partial(families.mlp, width=128, depth=2, activation="tanh"),
        "squared_error",
        1,
        512,
        150,
    ),
    "transformer on digits, batch 128": Task(digits, transformer, _softmax, 10, 128, 100),
    "transformer on text, batch 32": Task(text, transformer, _softmax, CHARACTERS, 32, 150),
    "gru on text, batch 32": Task(text, recurrent, _softmax, CHARACTERS, 32, 150),
    "paper, batch 512, 45 steps": Task(images, convnets.convnet, _softmax, 10, 512, 45),
    "paper, batch 512, 60 steps": Task(images, convnets.convnet, _softmax, 10, 512, 60),
    "paper, batch 128, 200 steps": Task(images, convnets.convnet, _softmax, 10, 128, 200),
    "paper, batch 64, 300 steps": Task(images, convnets.convnet, _softmax, 10, 64, 300),
}


def batches(task: Task, data_dir: str, seed: int) -> Any:
    """Yields the batches of a training, drawn with replacement from all but the last examples."""
    inputs, targets = task.data(data_dir)
    for chosen in batch_indices(task, len(targets), seed):
        yield inputs[chosen], targets[chosen]


def batch_indices(task: Task, count: int, seed: int) -> np.ndarray:
    """Returns the examples of each batch of a training, int32 [steps, batch].

    Args:
      task: The task.
      count: The number of its examples, of which the last are held aside.
      seed: The seed.
    """
    random = np.random.default_rng(1000 + seed)
    rows = [random.integers(0, count - _held_aside(count), task.batch) for _ in range(task.steps)]
    return np.array(rows, np.int32)


def held_aside(task: Task, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the last examples, which no batch contains."""
    inputs, targets = task.data(data_dir)
    number = _held_aside(len(targets))
    return inputs[-number:], targets[-number:]


def _held_aside(count: int) -> int:
    return min(_HELD_ASIDE, count // 5)
