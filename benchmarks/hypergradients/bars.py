"""Times hypergradients and training in a process: `python -m benchmarks.hypergradients.bars`.

The network of Maclaurin et al. (2015), 784-50-50-50-10 with tanh, on random data: training by
momentum, and the exact methods of `mlhf.hypergrad` on the same training. The rounds of all methods
alternate, so that other load affects them alike, and the shortest time of each counts. Processor
seconds are printed too: they are more reliable while other programs run.

The figures are meaningful only on a quiet machine.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import train_val  # noqa: F401  (before TensorFlow, which it keeps quiet)

# isort: split
import numpy as np
import tensorflow as tf
from absl import app, flags

from mlhf import hypergrad

FLAGS = flags.FLAGS
flags.DEFINE_integer("steps", 1000, "Steps of training, T.")
flags.DEFINE_integer("batch_size", 200, "Examples per batch.")
flags.DEFINE_integer("rounds", 5, "Number of rounds.")
flags.DEFINE_enum("form", "M1", ["M1", "M2", "M3", "M4"], "The form of momentum.")
flags.DEFINE_bool("schedules", True, "Whether rate and momentum have one value per step.")

SIZES = (784, 50, 50, 50, 10)
EXAMPLES = 10_000


def make_problem() -> tuple[hypergrad.Problem, Any]:
    """Returns the problem and first weights."""
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(size=[EXAMPLES, SIZES[0]]), tf.float32)
    labels = tf.constant(rng.integers(0, SIZES[-1], EXAMPLES))
    weights = {
        f"layer{i}": {
            "kernel": tf.constant(rng.normal(size=shape) * 0.1, tf.float32),
            "bias": tf.zeros(shape[1]),
        }
        for i, shape in enumerate(zip(SIZES[:-1], SIZES[1:], strict=True))
    }

    def network(weights: dict[str, dict[str, tf.Tensor]], x: tf.Tensor) -> tf.Tensor:
        for i in range(len(SIZES) - 1):
            x = x @ weights[f"layer{i}"]["kernel"] + weights[f"layer{i}"]["bias"]
            x = tf.tanh(x) if i < len(SIZES) - 2 else x
        return x

    def cross_entropy(y: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))

    def train_loss(
        w: Any, h: Any, step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]
    ) -> tf.Tensor:
        return cross_entropy(batch[1], network(w, batch[0]))

    problem = hypergrad.Problem(
        train_loss,
        lambda w, h: cross_entropy(labels[:1000], network(w, inputs[:1000])),
        dynamics=hypergrad.Momentum(0.05, 0.9, form=FLAGS.form),
        steps=FLAGS.steps,
        batches=hypergrad.Minibatches((inputs, labels), FLAGS.batch_size, FLAGS.steps),
    )
    return problem, weights


def make_runs() -> dict[str, tuple[str, Callable[[], Any]]]:
    """Returns, by name, the plain training to compare with, and the run."""
    problem, weights = make_problem()
    shape = [FLAGS.steps] if FLAGS.schedules else []
    hyper = {"learning_rate": np.full(shape, 0.05), "momentum": np.full(shape, 0.9)}
    runs: dict[str, tuple[str, Callable[[], Any]]] = {
        "train": ("train", lambda: hypergrad.train(problem, weights, hyper))
    }
    for storage in ("memory", "checkpoints", "disk"):
        runs[f"reverse, {storage}"] = (
            "train",
            functools.partial(hypergrad.reverse, problem, weights, hyper, storage=storage),
        )
    layers = 2 * (len(SIZES) - 1)
    scalars = {"learning_rate": 0.05, "momentum": 0.9}
    by_layer = {"learning_rate": np.full([layers], 0.05)}
    columns = {
        "H=1": {"learning_rate": 0.05},
        "H=2": scalars,
        "H=8": by_layer,
        "H=16": {**by_layer, "momentum": np.full([layers], 0.9)},
    }
    for name, some in columns.items():
        plain = f"train, {name}"
        runs[plain] = (plain, functools.partial(hypergrad.train, problem, weights, some))
        runs[f"forward, {name}"] = (
            plain,
            functools.partial(hypergrad.forward, problem, weights, some),
        )
    runs["truncated, T/10"] = (
        "train, H=2",
        lambda: hypergrad.truncated(problem, weights, scalars, window=FLAGS.steps // 10),
    )
    return runs


def measure_times() -> None:
    """Prints a table of times."""
    runs = make_runs()
    for _, run in runs.values():
        run()  # traces
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(FLAGS.rounds):
        for name, (_, run) in runs.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            seconds[name].append((time.perf_counter() - clock, time.process_time() - processor))
    least = {name: np.min(times, axis=0) for name, times in seconds.items()}
    print(
        f"T = {FLAGS.steps}, batches of {FLAGS.batch_size}, {FLAGS.form}, least of "
        f"{FLAGS.rounds} rounds"
    )
    print(f"{'':24}{'ms per step':>12}{'x training':>12}{'x, processor':>14}")
    for name, (plain, _) in runs.items():
        clock, processor = least[name] / least[plain]
        a_step = 1e3 * least[name][0] / FLAGS.steps
        print(f"{name:24}{a_step:12.2f}{clock:12.2f}{processor:14.2f}")


def main(_: list[str]) -> None:
    """Measures."""
    measure_times()


if __name__ == "__main__":
    app.run(main)
