"""Times Laplacians of networks by their inputs: `mlhf.derivatives` beside nested gradient tapes.

    python -m benchmarks.input_derivatives [repetitions]

Per network: the Laplacian alone, and the gradient of its mean square in the weights, in
milliseconds (medians of interleaved runs), and the ratio of the tapes to `mlhf.derivatives`, in
float64.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf import derivatives

# Inputs, hidden layers, points.
CASES = (
    (2, (32, 32), 900),
    (5, (32, 32), 900),
    (2, (256,) * 4, 1000),
    (5, (256,) * 4, 1000),
)


def network(weights: list[tf.Tensor], points: tf.Tensor) -> tf.Tensor:
    """Returns the outputs of a network of tanh units."""
    for kernel in weights[:-1]:
        points = tf.tanh(points @ kernel)
    return points @ weights[-1]


def by_taylor_mode(weights: list[tf.Tensor], points: tf.Tensor) -> tf.Tensor:
    """Returns the Laplacian by one pass of Taylor mode."""
    return derivatives.laplacian(lambda p: network(weights, p), points).laplacian


def by_tapes(weights: list[tf.Tensor], points: tf.Tensor) -> tf.Tensor:
    """Returns the Laplacian by a tape per coordinate around a tape."""
    columns = [points[:, i : i + 1] for i in range(points.shape[1])]
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(columns)
        with tf.GradientTape() as inner:
            inner.watch(columns)
            total = tf.reduce_sum(network(weights, tf.concat(columns, 1)))
        slopes = inner.gradient(total, columns)
        sums = [tf.reduce_sum(slope) for slope in slopes]
    return tf.add_n([outer.gradient(s, c) for s, c in zip(sums, columns, strict=True)])


def with_gradient(laplacian: Callable[..., tf.Tensor]) -> Callable[..., Any]:
    """Returns a function that computes the gradient of the mean square residual."""

    def gradient(weights: list[tf.Tensor], points: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_mean(tf.square(laplacian(weights, points)))
        return tape.gradient(loss, weights)

    return gradient


def main() -> None:
    """Prints a table."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(f"{'network':>22} {'points':>6} {'what':>10} {'Taylor':>8} {'tapes':>8} {'ratio':>6}")
    for size, hidden, count in CASES:
        random = np.random.default_rng(0)
        widths = [size, *hidden, 1]
        shapes = list(zip(widths[:-1], widths[1:], strict=True))
        weights = [tf.constant(random.normal(size=s) / np.sqrt(s[0])) for s in shapes]
        points = tf.constant(random.uniform(size=(count, size)))
        for what, wrap in (("value", lambda f: f), ("gradient", with_gradient)):
            ways = [tf.function(wrap(way), autograph=False) for way in (by_taylor_mode, by_tapes)]
            results = [tf.nest.flatten(way(weights, points))[0].numpy() for way in ways]
            np.testing.assert_allclose(*results, rtol=1e-8, atol=1e-10)
            seconds: list[list[float]] = [[], []]
            for _ in range(repetitions):
                for place, way in enumerate(ways):
                    start = time.perf_counter()
                    tf.nest.flatten(way(weights, points))[0].numpy()
                    seconds[place].append(time.perf_counter() - start)
            taylor, tapes = (1000 * float(np.median(s)) for s in seconds)
            ratio = float(np.median(np.divide(seconds[1], seconds[0])))
            name = f"{size}-{'-'.join(map(str, hidden))}-1"
            print(f"{name:>22} {count:6} {what:>10} {taylor:8.2f} {tapes:8.2f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
