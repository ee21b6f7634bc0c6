"""Short trainings on CIFAR-10 and on a regression, whose best rates and noise differ."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from train_val.data.cifar10 import load_cifar10
from train_val.task_families import families

HELD_ASIDE = 2000


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
def small_images(data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns CIFAR-10 averaged to 8 x 8 pixels, each image standardised, and the labels."""
    data = load_cifar10(data_dir, "train", "standard")
    images = data.images.reshape(-1, 8, 4, 8, 4, 3).mean((2, 4), dtype=np.float32)
    mean, deviation = images.mean((1, 2, 3), keepdims=True), images.std((1, 2, 3), keepdims=True)
    return (images - mean) / np.maximum(deviation, 8), data.labels.astype(np.int32)


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


_mlp = functools.partial(families.mlp, width=96, depth=2, activation="relu")
_convnet = functools.partial(families.convnet, width=16, dense=128)
_images = functools.partial(Task, small_images, loss="softmax_cross_entropy", outputs=10)
TASKS = {
    "mlp, batch 32": _images(network=_mlp, batch=32, steps=150),
    "mlp, batch 512": _images(network=_mlp, batch=512, steps=150),
    "mlp, batch 128, 800 steps": _images(network=_mlp, batch=128, steps=800),
    "convnet, batch 64": _images(network=_convnet, batch=64, steps=100),
    "convnet, batch 256": _images(network=_convnet, batch=256, steps=100),
    "convnet, batch 1024": _images(network=_convnet, batch=1024, steps=60),
    "regression, batch 32": Task(friedman, _mlp, "squared_error", 1, 32, 400),
}


def batches(task: Task, data_dir: str, seed: int) -> Any:
    """Yields the batches of a training, drawn with replacement from all but the last examples."""
    inputs, targets = task.data(data_dir)
    random = np.random.default_rng(1000 + seed)
    for _ in range(task.steps):
        chosen = random.integers(0, len(targets) - HELD_ASIDE, task.batch)
        yield inputs[chosen], targets[chosen]


def held_aside(task: Task, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the last examples, which no batch contains."""
    inputs, targets = task.data(data_dir)
    return inputs[-HELD_ASIDE:], targets[-HELD_ASIDE:]
