"""Learns ten training images such that a classifier trained on them alone does well on MNIST.

Maclaurin et al. 2015, section 3.3: softmax regression, 20 full steps of momentum on ten images,
one of each label; their pixels follow the validation loss downhill.

    python train_val/experiments/learned_training_set.py --data_dir=$DATA --seeds=0,1,2
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
        __doc__, experiment_flags.definer("learned_training_set"), experiment_flags.check_flags
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
STEPS, L2 = 20, 0.01


def run(
    valid: mnist_slices.Examples,
    test: mnist_slices.Examples,
    seed: int = 0,
    iterations: int = 40,
    rate: float = 1.0,
) -> dict[Any, Any]:
    """Learns ten images.

    Args:
      valid: The examples that the images are learned from.
      test: Examples that are only measured on.
      seed: The seed of the initial images and of the weights, the same in every iteration.
      iterations: Steps of gradient descent on the pixels.
      rate: The learning rate of that descent.

    Returns:
      The curves `valid_loss`, `test_loss`, `test_error`, and the `images`.
    """
    labels = tf.range(10)

    def train_loss(weights: Any, hyper: Any, step: tf.Tensor) -> tf.Tensor:
        del step
        penalty = L2 * tf.add_n([tf.reduce_sum(leaf**2) for leaf in weights])
        return (
            mnist_slices.cross_entropy(weights, mnist_slices.Examples(hyper["images"], labels))
            + penalty
        )

    problem = hypergrad.Problem(
        train_loss,
        lambda weights, hyper: mnist_slices.cross_entropy(weights, valid),
        dynamics=hypergrad.Momentum(1.0, 0.9, form="M1"),
        steps=STEPS,
    )
    weights = mnist_slices.normal_weights([784, 10], math.exp(-4), seed)
    images = tf.constant(0.01 * np.random.default_rng(seed).normal(size=(10, 784)), tf.float32)
    test_loss = tf.function(lambda weights: mnist_slices.cross_entropy(weights, test))
    curves: dict[str, list[Any]] = {"valid_loss": [], "test_loss": [], "test_error": []}
    for _ in range(iterations + 1):
        result = hypergrad.reversible(problem, weights, {"images": images})
        curves["valid_loss"].append(float(result.valid_loss))
        curves["test_loss"].append(float(test_loss(result.weights)))
        curves["test_error"].append(float(mnist_slices.error_rate(result.weights, test)))
        last, images = images, images - rate * result.hypergradient["images"]
    return curves | {"images": last.numpy().tolist()}


def draw(images: Any, path: Path) -> None:
    """Draws the ten images in a row."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 10, figsize=(10, 1.3))
    size = np.abs(images).max()
    for label, axis in enumerate(axes):
        axis.imshow(np.reshape(images[label], (28, 28)), "gray", vmin=-size, vmax=size)
        axis.set_title(str(label), fontsize=8)
        axis.axis("off")
    figure.savefig(path, bbox_inches="tight", dpi=150)
    plt.close(figure)


def main() -> None:
    """Runs all seeds, prints and draws."""
    _, valid, test = mnist_slices.load_slices(FLAGS.data_dir, [10_000] * 3)
    folder = reporting.folder(FLAGS.output)
    runs = reporting.run_seeds(
        "learned_training_set",
        ["data_dir", "iterations"],
        lambda seed: run(valid, test, seed, FLAGS.iterations),
    )
    text = reporting.table(runs, ["valid_loss", "test_loss", "test_error"])
    (folder / "learned_training_set.md").write_text(text + "\n")
    print(text)
    draw(next(iter(runs.values()))["images"], folder / "learned_training_set.png")


define_flags = experiment_flags.definer("learned_training_set")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
