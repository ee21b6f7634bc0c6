"""Learns weights of examples, the learning rate and all initial weights at once.

The example of FAR-HO (Franceschi et al. 2018) on MNIST: a network with a hidden layer of 300, 7,000
training and 7,000 validation images, 200 steps of gradient descent on batches of 100, each
example's cross entropy times the sigmoid of a number of its own, 0 at first. 20 steps of Adam on

  learning rate  alone
  everything     the learning rate, the 7,000 numbers, and the 238,510 weights training begins with

beside the training before any step, and one of both sets' images with the learned rate, for what
the validation images are worth when they are simply trained on.

    python train_val/experiments/weighted_error.py --data_dir=$DATA --seeds=0,1,2
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import experiment_flags

    experiment_flags.begin("weighted_error", __doc__)

import statistics
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from train_val.cli.flags import experiment_flags
from train_val.experiments import mnist_slices, reporting
from train_val.experiments.all_methods import cross_entropy, error_rate, first_weights, logits_of

FLAGS = flags.FLAGS
SIZES = (784, 300, 10)
RATES = {"learning_rate": 0.02, "example": 0.2, "initial_weights": 0.003}
COURSES = {"learning rate": ("learning_rate",), "everything": tuple(RATES)}
ROWS = ("before", *COURSES, "both sets")


def training(
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    steps: int,
    batch_size: int,
    seed: int,
) -> hypergrad.Problem:
    """Returns T steps on a weighted error, measured on other examples."""
    count = train.labels.shape[0]

    def train_loss(weights: Any, hyper: Any, step: tf.Tensor, batch: Any) -> tf.Tensor:
        del step
        images, labels, which = batch
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits_of(weights, images))
        if "example" in hyper:
            return tf.reduce_mean(tf.sigmoid(tf.gather(hyper["example"], which)) * each)
        return tf.reduce_mean(0.5 * each)

    return hypergrad.Problem(
        train_loss,
        lambda weights, hyper: cross_entropy(weights, valid),
        dynamics=hypergrad.GradientDescent(),
        steps=steps,
        batches=hypergrad.Minibatches((*train, tf.range(count)), batch_size, steps, seed=seed),
    )


def run(
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    test: mnist_slices.Examples,
    seed: int = 0,
    iterations: int = 20,
    sizes: Sequence[int] = SIZES,
    steps: int = 200,
    batch_size: int = 100,
    learning_rate: float = 0.1,
) -> dict[Any, Any]:
    """Learns by both courses.

    Args:
      train: Training examples.
      valid: Examples that hyperparameters are learned from.
      test: Examples that are only measured on.
      seed: The seed of initial weights and batches.
      iterations: Steps of Adam.
      sizes: The sizes of the network's layers.
      steps: The number of training steps, T.
      batch_size: Examples per batch.
      learning_rate: The initial learning rate.

    Returns:
      By the names in `ROWS`: `valid_loss` and `test_loss`, `test_error` and `learning_rate` after
      all steps; for `COURSES` also the curve `valid_losses`, before each step and after the last.
    """
    weights = first_weights(mnist_slices.shapes_of(sizes), seed)
    problem = training(train, valid, steps, batch_size, seed)
    begin = {
        "learning_rate": tf.constant(learning_rate),
        "example": tf.zeros([train.labels.shape[0]]),
        "initial_weights": weights,
    }

    def measured(problem: hypergrad.Problem, hyper: Any) -> dict[str, Any]:
        result = hypergrad.train(problem, weights, hyper)
        return {
            "valid_loss": float(result.valid_loss),
            "test_loss": float(cross_entropy(result.weights, test)),
            "test_error": float(error_rate(result.weights, test)),
            "learning_rate": float(hyper["learning_rate"]),
        }

    found = {}
    for course, names in COURSES.items():
        hyper = {name: begin[name] for name in names}
        if course == "learning rate":
            found["before"] = measured(problem, hyper)
        outer = hypergrad.HyperOptimizer(
            problem,
            weights,
            hyper,
            outer_optimizer={name: keras.optimizers.Adam(RATES[name]) for name in names},
            options={"per_step": False},
            # The measurement afterwards trains in this order of the minibatches too.
            new_seeds=False,
        )
        hyper = outer.run(iterations, progress=True)
        found[course] = measured(problem, hyper)
        losses = [float(record["valid_loss"]) for record in outer.records]
        found[course]["valid_losses"] = [*losses, found[course]["valid_loss"]]
    both = mnist_slices.Examples(*(tf.concat(pair, 0) for pair in zip(train, valid, strict=True)))
    found["both sets"] = measured(
        training(both, valid, steps, batch_size, seed),
        {"learning_rate": tf.constant(found["learning rate"]["learning_rate"])},
    )
    return found


def as_markdown(runs: dict[Any, Any]) -> str:
    """Returns a table of all rows, means over the seeds."""
    names = ("valid_loss", "test_loss", "test_error", "learning_rate")
    lines = [
        "| learned | validation loss | test loss | test error | learning rate |",
        "|---" * 5 + "|",
    ]
    for row in ROWS:
        means = [statistics.mean(run[row][name] for run in runs.values()) for name in names]
        lines.append(f"| {row} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    return "\n".join(lines)


def draw(runs: dict[Any, Any], path: Path) -> None:
    """Draws the validation losses of all seeds."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3))
    for course, color in zip(COURSES, ("tab:blue", "tab:orange"), strict=True):
        for i, run in enumerate(runs.values()):
            label = course if i == 0 else None
            axis.semilogy(run[course]["valid_losses"], color=color, alpha=0.8, label=label)
    axis.set(xlabel="steps on the hyperparameters", ylabel="validation loss")
    axis.legend(fontsize=7)
    figure.savefig(path, bbox_inches="tight", dpi=130)
    plt.close(figure)


def main() -> None:
    """Runs all seeds, prints and draws."""
    train, valid, test = mnist_slices.load_slices(FLAGS.data_dir, [7_000, 7_000, 10_000])
    folder = reporting.folder(FLAGS.output)
    runs = reporting.run_seeds(
        "weighted_error",
        ["data_dir", "iterations"],
        lambda seed: run(train, valid, test, seed, FLAGS.iterations),
    )
    text = as_markdown(runs)
    (folder / "weighted_error.md").write_text(text + "\n")
    print(text)
    draw(runs, folder / "weighted_error.png")


define_flags = experiment_flags.definer("weighted_error")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
