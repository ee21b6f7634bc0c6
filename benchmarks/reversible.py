"""Measures reversible momentum: time per step against the length of training, bits, memory.

    python benchmarks/reversible.py --output=reversible.json

It prints two tables. The first is for the arithmetic alone, on random gradients: milliseconds per
step forward and back for each length, and the size of the buffer relative to stored float32 states.
The second is for whole hypergradients of a 784-50-50-50-10 network on random data: the time of
training, and of training and the way back together.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf
from absl import app, flags

from mlhf import hypergrad
from mlhf.hypergrad.exact_arithmetic.fixed_point_momentum import FixedPointMomentum
from mlhf.hypergrad.exact_arithmetic.information_buffer import quantize_decay

FLAGS = flags.FLAGS
SIZES = (784, 50, 50, 50, 10)
WEIGHTS = 45_360
RATE = 0.05


class OneFactor:
    """The same learning rate and momentum for all weights in all steps."""

    def __init__(self, momentum: float) -> None:
        self.blocks = [slice(0, WEIGHTS)]
        self._values = {"learning_rate": RATE, "momentum": momentum}

    def at(self, name: str, step: int) -> list[float]:
        """Returns the factor of a step."""
        del step
        return [self._values[name]]

    def all_of(self, name: str) -> np.ndarray:
        """Returns all values."""
        return np.array([self._values[name]])

    def times(self, factors: list[float], vector: np.ndarray) -> np.ndarray:
        """Returns factor · vector."""
        return factors[0] * vector


def arithmetic(momentum: float, steps: int) -> dict:
    """Runs the integer arithmetic forward and back on random gradients, the same both ways.

    Args:
      momentum: The momentum.
      steps: The number of steps.

    Returns:
      A row of the first table.
    """
    random = np.random.default_rng(0)
    noise = random.normal(size=(8, WEIGHTS)).astype(np.float32)
    training = FixedPointMomentum(
        "M1", OneFactor(momentum), random.normal(size=WEIGHTS), np.zeros(WEIGHTS)
    )
    forward, back = [], []
    for step in range(steps):
        began = time.perf_counter()
        training.forward(step, noise[step % 8])
        forward.append(time.perf_counter() - began)
    bits, held = training.bits, training.nbytes
    for step in reversed(range(steps)):
        began = time.perf_counter()
        training.undo_move(step)
        training.undo_push(step, noise[step % 8])
        back.append(time.perf_counter() - began)
    assert training.is_back, "a bit is missing"
    tenth = max(1, steps // 10)
    return {
        "momentum": momentum,
        "steps": steps,
        "forward_ms": 1e3 * statistics.median(forward),
        "forward_ms_last_tenth": 1e3 * statistics.median(forward[-tenth:]),
        "back_ms": 1e3 * statistics.median(back),
        "bits_a_step": bits / steps,
        "bits_lost_a_step": -math.log2(float(quantize_decay(momentum))),
        "buffer_bytes": held,
        "of_stored_float32": held / (4 * WEIGHTS * steps),
    }


def network(weights: list[tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
    """Returns logits of tanh layers."""
    for i in range(0, len(weights) - 2, 2):
        inputs = tf.tanh(inputs @ weights[i] + weights[i + 1])
    return inputs @ weights[-2] + weights[-1]


def whole(steps: int, repeats: int) -> dict:
    """Times whole hypergradients of learning rate, momentum and L2."""
    random = np.random.default_rng(0)
    inputs = tf.constant(random.normal(size=(5000, SIZES[0])).astype(np.float32))
    labels = tf.constant(random.integers(0, SIZES[-1], 5000).astype(np.int32))
    weights = []
    for size, out in zip(SIZES[:-1], SIZES[1:], strict=True):
        weights.append(tf.constant(0.05 * random.normal(size=(size, out)).astype(np.float32)))
        weights.append(tf.zeros([out]))

    def cross_entropy(weights: list[tf.Tensor], inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        logits = network(weights, inputs)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

    def train_loss(
        weights: list[tf.Tensor],
        hyper: dict[str, tf.Tensor],
        step: tf.Tensor,
        batch: tuple[tf.Tensor, tf.Tensor],
    ) -> tf.Tensor:
        del step
        squares = tf.add_n([tf.reduce_sum(leaf**2) for leaf in weights])
        return cross_entropy(weights, *batch) + tf.exp(hyper["log_l2"]) * squares

    problem = hypergrad.Problem(
        train_loss,
        lambda weights, hyper: cross_entropy(weights, inputs[:1000], labels[:1000]),
        dynamics=hypergrad.Momentum(RATE, 0.9, form="M1"),
        steps=steps,
        batches=hypergrad.Minibatches((inputs, labels), 50, steps),
    )
    hyper = {"learning_rate": RATE, "momentum": 0.9, "log_l2": -8.0}
    times: dict[str, list[float]] = {"training": [], "both": [], "reverse": []}
    for _ in range(repeats + 1):
        result = hypergrad.reversible(problem, weights, hyper, per_step=False)
        training, back = result.info["training_seconds"], result.info["backward_seconds"]
        times["training"].append(training)
        times["both"].append(training + back)
        began = time.perf_counter()
        hypergrad.reverse(problem, weights, hyper, per_step=False)
        times["reverse"].append(time.perf_counter() - began)
    # The first run compiles.
    ms = {name: 1e3 * min(seconds[1:]) / steps for name, seconds in times.items()}
    return {
        "steps": steps,
        "training_ms": ms["training"],
        "training_and_back_ms": ms["both"],
        "ratio": ms["both"] / ms["training"],
        "reverse_ms": ms["reverse"],
        "buffer_bytes": result.info["buffer_bytes"],
        "stored_bytes": 4 * 2 * WEIGHTS * steps,
    }


def main(argv: list[str]) -> None:
    """Runs both tables and prints them."""
    del argv
    rows = [arithmetic(0.9, int(steps)) for steps in FLAGS.steps]
    rows += [arithmetic(momentum, 2000) for momentum in (0.5, 0.98)]
    print(
        "momentum  steps  forward ms (last tenth)  back ms  bits per step (lost)  of stored states"
    )
    for row in rows:
        print(
            f"{row['momentum']:8} {row['steps']:6} {row['forward_ms']:11.2f} "
            f"({row['forward_ms_last_tenth']:.2f}) {row['back_ms']:15.2f} "
            f"{row['bits_a_step']:12.4f} ({row['bits_lost_a_step']:.4f}) "
            f"{row['of_stored_float32']:12.2%}"
        )
    runs = [whole(int(steps), FLAGS.repeats) for steps in FLAGS.whole_steps]
    print("\nsteps  training ms  with the way back ms  ratio  reverse ms  buffer MB  stored MB")
    for run in runs:
        print(
            f"{run['steps']:5} {run['training_ms']:12.2f} {run['training_and_back_ms']:21.2f} "
            f"{run['ratio']:6.2f} {run['reverse_ms']:11.2f} {run['buffer_bytes'] / 1e6:10.2f} "
            f"{run['stored_bytes'] / 1e6:10.1f}"
        )
    if FLAGS.output:
        Path(FLAGS.output).write_text(json.dumps({"arithmetic": rows, "whole": runs}, indent=1))


if __name__ == "__main__":
    flags.DEFINE_list("steps", ["100", "1000", "5000"], "Lengths for the arithmetic alone.")
    flags.DEFINE_list("whole_steps", ["100", "400", "2000"], "Lengths for whole hypergradients.")
    flags.DEFINE_integer("repeats", 3, "Whole hypergradients timed after the first.", 1)
    flags.DEFINE_string("output", None, "A JSON file.")
    app.run(main)
