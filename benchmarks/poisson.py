"""Error over time of Levenberg and Marquardt's method on the 2-D Poisson equation.

-Δu = f on the unit square with u = sin(πx) sin(πy), 900 points inside and 120 on the boundary,
float64, a network of tanh. Prints the relative L2 error on a grid of 100 by 100 points after some
steps, with the seconds since the first step and those of all processors.

    python -m benchmarks.poisson --widths=2,32,32,1 --steps=100 --seeds=0
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import tensorflow as tf

import mlhf
from mlhf import derivatives


def network(parameters: Any, points: tf.Tensor) -> tf.Tensor:
    """Returns u at points, [B, 1]."""
    hidden = tf.convert_to_tensor(points)
    for number, layer in enumerate(parameters):
        hidden = hidden @ layer["kernel"] + layer["bias"]
        if number < len(parameters) - 1:
            hidden = tf.tanh(hidden)
    return hidden


def residual(parameters: Any, points: tf.Tensor) -> tf.Tensor:
    """Returns Δu + f at points, [B, 1]."""
    laplacian = derivatives.laplacian(lambda p: network(parameters, p), points).laplacian
    return laplacian + 2 * np.pi**2 * solution(points)


def solution(points: tf.Tensor) -> tf.Tensor:
    """Returns the exact u at points, [B, 1]."""
    return tf.sin(np.pi * points[:, :1]) * tf.sin(np.pi * points[:, 1:])


def problem(widths: list[int], seed: int) -> tuple[mlhf.ObjectiveSum, list[dict[str, tf.Tensor]]]:
    """Returns the objective and Glorot's initial weights."""
    random = np.random.default_rng(seed)
    start = [
        {
            "kernel": tf.constant(random.normal(size=(a, b)) * np.sqrt(2 / (a + b))),
            "bias": tf.zeros([b], tf.float64),
        }
        for a, b in zip(widths, widths[1:], strict=False)
    ]
    inside = tf.constant(random.uniform(size=(900, 2)))
    t = random.uniform(size=(30, 1))
    sides = ((t, 0 * t), (t, 0 * t + 1), (0 * t, t), (0 * t + 1, t))
    edge = tf.constant(np.concatenate([np.hstack(side) for side in sides]))
    zeros = tf.zeros([900, 1], tf.float64)
    terms = {
        "inside": mlhf.Objective(residual, "squared_error", inside, zeros),
        "boundary": mlhf.Objective(network, "squared_error", edge, zeros[:120]),
    }
    return mlhf.ObjectiveSum(terms), start


def run(widths: list[int], seed: int, steps: int, options: dict[str, Any]) -> None:
    """Trains once and prints the errors."""
    objective, parameters = problem(widths, seed)
    axis = np.linspace(0, 1, 100)
    grid = tf.constant(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    exact = solution(grid).numpy()
    optimizer = mlhf.LevenbergMarquardt(**options)
    state = optimizer.init(parameters)
    begin = (0.0, 0.0)
    for number in range(1, steps + 1):
        parameters, state, _, metrics = optimizer.step(objective, parameters, state)
        loss = float(metrics["loss"])
        if number == 1:
            # Compilation is not counted.
            begin = (time.perf_counter(), time.process_time())
        if number % 20 == 0:
            error = np.linalg.norm(network(parameters, grid) - exact) / np.linalg.norm(exact)
            seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
            print(
                f"{widths} {optimizer.chosen} seed {seed} step {number}: loss {loss:.2e}, error "
                f"{error:.2e}, {seconds[0]:.1f} s, {seconds[1]:.1f} s of processors",
                flush=True,
            )


def main() -> None:
    """Reads the command line and runs each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", default="2,32,32,1")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--method", default="auto", choices=("auto", *mlhf.LM_METHODS))
    parser.add_argument("--no-acceleration", action="store_true")
    given = parser.parse_args()
    options = {"method": given.method, "acceleration": not given.no_acceleration}
    for seed in given.seeds.split(","):
        run([int(w) for w in given.widths.split(",")], int(seed), given.steps, options)


if __name__ == "__main__":
    main()
