"""The networks that stand for solutions: tanh units on a box, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_count


def tanh_network(
    box: Sequence[tuple[float, float]], width: int, depth: int
) -> tuple[Callable[[Any, tf.Tensor], tf.Tensor], Callable[[int], Any]]:
    """Returns a network on a box and a function from a seed to its initial parameters.

    Args:
      box: The bounds of each coordinate, which become -1 and 1.
      width: The number of units in a hidden layer.
      depth: The number of hidden layers.

    Returns:
      A function (parameters, points [N, d]) → [N, 1], and a function that draws Glorot-normal
      kernels and zero biases.

    Raises:
      ValueError: If a size makes no sense.
    """
    check_count("width", width)
    check_count("depth", depth)
    low, high = np.array(box, np.float64).T
    names = [f"dense{number + 1}" for number in range(depth)]
    widths = [len(box), *[width] * depth, 1]

    def network(parameters: Any, points: tf.Tensor) -> tf.Tensor:
        x = (points - (low + high) / 2) * (2 / (high - low))
        for name in names:
            x = tf.tanh(x @ parameters[name]["kernel"] + parameters[name]["bias"])
        return x @ parameters["dense_output"]["kernel"] + parameters["dense_output"]["bias"]

    def initialize(seed: int) -> dict[str, dict[str, tf.Tensor]]:
        random = np.random.default_rng(seed)
        parameters = {}
        for name, rows, columns in zip(
            [*names, "dense_output"], widths[:-1], widths[1:], strict=True
        ):
            scale = np.sqrt(2 / (rows + columns))
            parameters[name] = {
                "kernel": tf.constant(scale * random.normal(size=(rows, columns))),
                "bias": tf.zeros(columns, tf.float64),
            }
        return parameters

    return network, initialize


def grid(box: Sequence[tuple[float, float]], per_axis: Sequence[int]) -> np.ndarray:
    """Returns the centers of a regular grid's cells inside a box, [N, d]."""
    axes = [
        low + (high - low) * (np.arange(count) + 0.5) / count
        for (low, high), count in zip(box, per_axis, strict=True)
    ]
    return np.stack([axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")], 1)


def faces(box: Sequence[tuple[float, float]], per_face: int, seed: int = 0) -> np.ndarray:
    """Returns points on all faces of a box: evenly spread in the plane, else uniformly drawn."""
    size = len(box)
    random, parts = np.random.default_rng(seed), []
    for axis in range(size):
        for bound in box[axis]:
            share = random.uniform(size=(per_face, size))
            if size == 2:
                share[:] = ((np.arange(per_face) + 0.5) / per_face)[:, None]
            low, high = np.array(box, np.float64).T
            points = low + (high - low) * share
            points[:, axis] = bound
            parts.append(points)
    return np.concatenate(parts)
