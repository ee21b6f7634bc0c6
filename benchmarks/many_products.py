"""Products with many vectors at once against one after the other, and a Jacobian against one row.

On the 2-D Poisson equation with a network 2-32-32-1 of tanh units in float64: its residual at 900
points for the Jacobian, the network's values there for "plain". Prints medians of processor seconds
of interleaved runs, and the largest difference from products one by one.

    python -m benchmarks.many_products --vectors=50
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import custom_op  # noqa: E402
from train_val.task_families.equations import poisson  # noqa: E402


def seconds(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Returns the median processor seconds of each run; they take turns."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            times[name].append(time.process_time() - begin)
    return {name: float(np.median(values)) for name, values in times.items()}


def compare(title: str, operator: Any, vectors: tf.Tensor, rounds: int) -> None:
    """Prints the times of one product and of all, and their error."""
    one = tf.function(operator.matvec, autograph=False)
    together = tf.function(operator.matmat, autograph=False)
    first = tf.constant(vectors[:, 0])
    taken = seconds({"one": lambda: one(first), "all": lambda: together(vectors)}, rounds)
    count = int(vectors.shape[1])
    by_one = np.stack([one(tf.constant(vectors[:, k])) for k in range(count)], 1)
    error = np.abs(together(vectors) - by_one).max() / np.abs(by_one).max()
    print(
        f"{title}: one product {1e3 * taken['one']:.2f} ms, {count} at once "
        f"{1e3 * taken['all']:.1f} ms, {taken['all'] / taken['one']:.1f} times; error {error:.0e}",
        flush=True,
    )


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    equation = poisson()
    term = equation.terms["inside"]
    points, targets = tf.constant(term.points), tf.constant(term.targets)
    parameters = equation.initialize(0)
    networks = {"plain network": equation.solution, "residual": term.residual}
    size = sum(leaf.shape.num_elements() for leaf in tf.nest.flatten(parameters))
    vectors = tf.constant(np.random.default_rng(0).normal(size=(size, given.vectors)))
    for title, network in networks.items():

        def on_points(w: Any, network: Any = network) -> tf.Tensor:
            return network(w, points)

        operators = {
            "G": custom_op.gauss_newton(
                on_points, parameters, "squared_error", targets, unconnected="zero"
            ),
            "H": custom_op.hessian(
                on_points, parameters, "squared_error", targets, unconnected="zero"
            ),
        }
        for name, operator in operators.items():
            compare(f"{name} of the {title}", operator, vectors, given.rounds)

    def residuals(w: Any) -> tf.Tensor:
        return term.residual(w, points)[:, 0]

    operator = custom_op.jacobian(residuals, parameters, unconnected="zero")
    dense = tf.function(operator.to_dense, autograph=False)
    row = tf.function(operator.rmatvec, autograph=False)
    unit = tf.one_hot(0, len(term.points), dtype=tf.float64)
    taken = seconds({"dense": dense, "row": lambda: row(unit)}, given.rounds)
    print(
        f"J of the residual, {len(term.points)} by {size}: {1e3 * taken['dense']:.1f} ms, one row "
        f"{1e3 * taken['row']:.2f} ms"
    )


if __name__ == "__main__":
    main()
