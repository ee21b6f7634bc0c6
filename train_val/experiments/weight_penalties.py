"""Learns a regulariser for every weight of softmax regression on MNIST.

Maclaurin et al. 2015, section 3.2: 50 steps of momentum; the logarithms of 7,850 penalties follow
the validation loss, and a penalty on them, downhill.

    python train_val/experiments/weight_penalties.py --data_dir=$DATA --seeds=0,1,2
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import experiment_flags

    running.begin(
        __doc__, experiment_flags.definer("weight_penalties"), experiment_flags.check_flags
    )

import math
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from train_val.cli.flags import experiment_flags
from train_val.experiments import mnist_slices, reporting

FLAGS = flags.FLAGS


def run(
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    test: mnist_slices.Examples,
    seed: int = 0,
    iterations: int = 50,
    rate: float = 1000.0,
    steps: int = 50,
    batch_size: int = 200,
) -> dict[Any, Any]:
    """Learns the penalties.

    Args:
      train: Training examples, visited in order.
      valid: The examples that penalties are learned from.
      test: Examples that are only measured on.
      seed: The seed of the weights, the same in every iteration.
      iterations: Steps of gradient descent on the logarithms.
      rate: The learning rate of that descent.
      steps: The number of training steps.
      batch_size: Examples per batch.

    Returns:
      The curves `outer_loss` (with its penalty), `test_loss`, `test_error`, and `log_l2` of the
      pixels [784][10].
    """

    def train_loss(weights: Any, hyper: Any, step: tf.Tensor, batch: Any) -> tf.Tensor:
        del step
        pairs = zip(weights, hyper["log_l2"], strict=True)
        penalty = tf.add_n([tf.reduce_sum(tf.exp(log) * leaf**2) for leaf, log in pairs])
        return mnist_slices.cross_entropy(weights, mnist_slices.Examples(*batch)) + penalty

    def valid_loss(weights: Any, hyper: Any) -> tf.Tensor:
        size = tf.add_n([tf.reduce_sum(tf.exp(2 * log)) for log in hyper["log_l2"]])
        return mnist_slices.cross_entropy(weights, valid) + 0.01 * size

    problem = hypergrad.Problem(
        train_loss,
        valid_loss,
        dynamics=hypergrad.Momentum(1.0, 0.9, form="M1"),
        steps=steps,
        batches=hypergrad.Minibatches(tuple(train), batch_size, steps, shuffle=False),
    )
    weights = mnist_slices.normal_weights([784, 10], math.exp(-4), seed)
    logs = [tf.fill(leaf.shape, math.log(0.01) + 1) for leaf in weights]
    test_loss = tf.function(lambda weights: mnist_slices.cross_entropy(weights, test))
    curves: dict[str, list[Any]] = {"outer_loss": [], "test_loss": [], "test_error": []}
    for _ in range(iterations + 1):
        result = hypergrad.reversible(problem, weights, {"log_l2": logs}, per_step=False)
        curves["outer_loss"].append(float(result.valid_loss))
        curves["test_loss"].append(float(test_loss(result.weights)))
        curves["test_error"].append(float(mnist_slices.error_rate(result.weights, test)))
        last = logs
        pairs = zip(logs, result.hypergradient["log_l2"], strict=True)
        logs = [log - rate * slope for log, slope in pairs]
    return curves | {"log_l2": last[0].numpy().tolist()}


def draw(run: dict[Any, Any], path: Path) -> None:
    """Draws the curves, and the penalties of the pixels of every class."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3))
    for name in ("outer_loss", "test_loss"):
        axis.plot(run[name], label=name.replace("_", " "))
    axis.set_xlabel("steps on the penalties")
    axis.legend()
    figure.savefig(path.with_name(f"{path.stem}_curves.png"), bbox_inches="tight", dpi=150)
    plt.close(figure)
    figure, axes = plt.subplots(1, 10, figsize=(10, 1.3))
    for label, panel in enumerate(axes):
        panel.imshow(np.array(run["log_l2"])[:, label].reshape(28, 28), "viridis")
        panel.set_title(str(label), fontsize=8)
        panel.axis("off")
    figure.savefig(path, bbox_inches="tight", dpi=150)
    plt.close(figure)


def main() -> None:
    """Runs all seeds, prints and draws."""
    train, valid, test = mnist_slices.load_slices(FLAGS.data_dir, [10_000] * 3)
    folder = reporting.folder(FLAGS.output)
    runs = reporting.run_seeds(
        "weight_penalties",
        ["data_dir", "iterations"],
        lambda seed: run(train, valid, test, seed, FLAGS.iterations),
    )
    text = reporting.table(runs, ["outer_loss", "test_loss", "test_error"])
    (folder / "weight_penalties.md").write_text(text + "\n")
    print(text)
    draw(next(iter(runs.values())), folder / "weight_penalties.png")


define_flags = experiment_flags.definer("weight_penalties")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
