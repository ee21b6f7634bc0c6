"""Finds wrong labels: weights of training examples, learned from a clean validation set.

Data hyper-cleaning of Franceschi et al. 2017, section 4.1, on a small scale: softmax regression on
1,000 images of MNIST, half of whose labels are wrong, trained by 500 full steps of gradient descent
on the mean of λ_i · (the cross entropy of example i). Adam moves the 1,000 weights λ, in [0, 1] and
with a sum of at most R = 300, along the gradient of the loss on 1,000 validation images, with a
projection after each of 200 steps. Then a network is trained on both sets with the learned weights,
beside networks trained

  all examples     on both sets as they are, wrong labels included
  validation only  on the validation set alone
  oracle           on both sets without the wrong labels, which only the corrupter knows

    python train_val/experiments/hyper_cleaning.py --data_dir=$DATA --seeds=0,1,2

A run that was killed continues when its command is given again.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import experiment_flags

    experiment_flags.begin("hyper_cleaning", __doc__)

import statistics
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from train_val.cli.flags import experiment_flags
from train_val.experiments import mnist_slices, reporting

FLAGS = flags.FLAGS
ROWS = ("all examples", "validation only", "hyper-cleaning", "oracle")
DISCARDED = 1e-3
RATE = 0.1


def corrupt(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Replaces some labels by those of other classes.

    Args:
      labels: The labels of ten classes, int [N].
      share: The share of labels that become wrong.
      seed: The seed of the choice.

    Returns:
      The labels, and whether each is wrong, bool [N].
    """
    random = np.random.default_rng(seed)
    wrong = np.zeros(len(labels), bool)
    wrong[random.choice(len(labels), round(share * len(labels)), replace=False)] = True
    other = (labels + random.integers(1, 10, len(labels))) % 10
    return np.where(wrong, other, labels).astype(np.int32), wrong


def first_weights(pixels: int) -> list[tf.Tensor]:
    """Returns the kernel [10, pixels], which multiplies faster than its transpose, and the bias."""
    return [tf.zeros([10, pixels]), tf.zeros([10])]


def logits_of(weights: Any, images: tf.Tensor) -> tf.Tensor:
    """Returns logits [N, 10]."""
    return tf.matmul(images, weights[0], transpose_b=True) + weights[1]


def weighted_loss(
    weights: Any, of_examples: tf.Tensor | float, examples: mnist_slices.Examples
) -> tf.Tensor:
    """Returns the mean of the examples' cross entropies, each times its weight."""
    logits = logits_of(weights, examples.images)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(examples.labels, logits)
    return tf.reduce_mean(of_examples * each)


def training(
    train: mnist_slices.Examples, outer: mnist_slices.Examples, steps: int, rate: float = RATE
) -> hypergrad.Problem:
    """Returns full steps of gradient descent on a weighted loss, measured on other examples."""
    return hypergrad.Problem(
        lambda weights, hyper, step: weighted_loss(weights, hyper["weights"], train),
        lambda weights, hyper: weighted_loss(weights, 1.0, outer),
        dynamics=hypergrad.GradientDescent(rate),
        steps=steps,
    )


def f1(weights: np.ndarray, wrong: np.ndarray) -> float:
    """Returns the F1 score of calling examples of nearly no weight wrong."""
    called = np.asarray(weights) < DISCARDED
    return float(2 * (called & wrong).sum() / (called.sum() + wrong.sum()))


def compare(
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    test: mnist_slices.Examples,
    wrong: np.ndarray,
    learned: np.ndarray,
    steps: int,
) -> dict[Any, Any]:
    """Trains on training and validation examples together, with the weights of every row.

    Args:
      train: Examples, some of which have wrong labels.
      valid: Clean examples.
      test: Examples to measure the accuracy on.
      wrong: Whether each label of `train` is wrong, bool [N].
      learned: The learned weights, [N].
      steps: The number of training steps.

    Returns:
      Test accuracies by the names in `ROWS`.
    """
    both = mnist_slices.Examples(*(tf.concat(pair, 0) for pair in zip(train, valid, strict=True)))
    ones, clean = np.ones(len(valid.labels)), np.concatenate([~wrong, np.ones(len(valid.labels))])
    chosen = {
        "all examples": np.ones(len(clean)),
        "validation only": np.concatenate([np.zeros(len(wrong)), ones]),
        # A validation example weighs as much as the heaviest of the training examples.
        "hyper-cleaning": np.concatenate([learned / learned.max(), ones]),
        "oracle": clean.astype(float),
    }
    problem = training(both, test, steps)
    start = first_weights(both.images.shape[1])
    accuracies = {}
    for name, weights in chosen.items():
        if name != "hyper-cleaning":
            # The mean over the examples that are used.
            weights = weights * len(weights) / weights.sum()
        hyper = {"weights": tf.constant(weights, tf.float32)}
        trained = hypergrad.train(problem, start, hyper).weights
        right = tf.argmax(logits_of(trained, test.images), 1, tf.int32) == test.labels
        accuracies[name] = float(tf.reduce_mean(tf.cast(right, tf.float32)))
    return accuracies


def run(
    pool: mnist_slices.Examples,
    test: mnist_slices.Examples,
    seed: int = 0,
    iterations: int = 200,
    examples: int = 1000,
    share: float = 0.5,
    total: float = 300.0,
    steps: int = 500,
    last_steps: int = 4000,
    rate: float = 0.005,
    folder: Path | None = None,
) -> dict[Any, Any]:
    """Corrupts, learns the weights and trains with them.

    Args:
      pool: Examples that training and validation sets are drawn from.
      test: Examples that are only measured on.
      seed: The seed of drawing and corrupting examples.
      iterations: Steps of Adam on the weights of examples.
      examples: The number N of training examples, and of validation examples.
      share: The share of labels that become wrong.
      total: The largest sum of the weights, R.
      steps: The number of training steps while weights are learned, T.
      last_steps: The number of steps of each training afterwards.
      rate: Adam's learning rate.
      folder: The folder for checkpoints of the outer loop; None writes none.

    Returns:
      The curves `valid_loss` and `f1`, before every step and after the last; `accuracy` by the
      names in `ROWS`; and the last `weights` and which are `wrong`.
    """
    order = np.random.default_rng(seed).permutation(len(pool.labels))
    parts = np.split(order[: 2 * examples], 2)
    clean, valid = (
        mnist_slices.Examples(*(tf.gather(array, part) for array in pool)) for part in parts
    )
    # A pixel that is black in all images keeps weights of zero and only costs time.
    used = tf.reduce_max(tf.concat([clean.images, valid.images], 0), 0) > 0
    clean, valid, test = (
        part._replace(images=tf.boolean_mask(part.images, used, axis=1))
        for part in (clean, valid, test)
    )
    labels, wrong = corrupt(clean.labels.numpy(), share, seed)
    train = mnist_slices.Examples(clean.images, tf.constant(labels))
    # So the rate times the mean of the weights is the same as without weights.
    problem = training(train, valid, steps, RATE * examples / total)
    start = first_weights(train.images.shape[1])
    outer = hypergrad.HyperOptimizer(
        problem,
        start,
        {"weights": tf.fill([examples], total / examples)},
        outer_optimizer=keras.optimizers.Adam(rate),
        projections={"weights": hypergrad.projections.capped_simplex(total)},
        options={"per_step": False},
        folder=folder,
        checkpoint_every=10,
    )
    learned = outer.run(iterations, progress=True)["weights"].numpy()
    last = hypergrad.train(problem, start, {"weights": learned})
    path = [record["hyperparameters"]["weights"] for record in outer.records] + [learned]
    return {
        "valid_loss": [float(record["valid_loss"]) for record in outer.records]
        + [float(last.valid_loss)],
        "f1": [f1(weights, wrong) for weights in path],
        "accuracy": compare(train, valid, test, wrong, learned, last_steps),
        "weights": learned.tolist(),
        "wrong": wrong.tolist(),
    }


def as_markdown(runs: dict[Any, Any]) -> str:
    """Returns the test accuracies of all rows and the F1 score, by seed, with their means."""
    lines = ["| seed | " + " | ".join(ROWS) + " | F1 |", "|---" * (len(ROWS) + 2) + "|"]
    found = [[run["accuracy"][name] for name in ROWS] + [run["f1"][-1]] for run in runs.values()]
    for seed, values in zip(runs, found, strict=True):
        lines.append(f"| {seed} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    means = map(statistics.mean, zip(*found, strict=True))
    lines.append("| mean | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    return "\n".join(lines)


def draw(runs: dict[Any, Any], path: Path) -> None:
    """Draws the courses of all seeds, and the first seed's weights of right and wrong examples."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3))
    for seed, run in runs.items():
        axes[0].plot(run["valid_loss"], label=f"seed {seed}")
        axes[1].plot(run["f1"])
    axes[0].set(xlabel="steps on the weights of examples", ylabel="validation loss")
    axes[1].set(xlabel="steps on the weights of examples", ylabel="F1", ylim=(0, 1))
    axes[0].legend(fontsize=7)
    first = next(iter(runs.values()))
    weights, wrong = np.array(first["weights"]), np.array(first["wrong"])
    parts = [weights[~wrong], weights[wrong]]
    axes[2].hist(parts, bins=20, range=(0, 1), label=["right labels", "wrong labels"])
    axes[2].set(xlabel="learned weight", ylabel="examples")
    axes[2].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight", dpi=130)
    plt.close(figure)


def main() -> None:
    """Runs all seeds, prints and draws."""
    folder = reporting.folder(FLAGS.output)
    pool, test = mnist_slices.load_slices(FLAGS.data_dir, [20_000, 10_000], centred=False)
    runs = reporting.run_seeds(
        "hyper_cleaning",
        ["data_dir", "iterations"],
        lambda seed: run(
            pool, test, seed, FLAGS.iterations, folder=folder / f"hyper_cleaning_{seed}"
        ),
    )
    text = as_markdown(runs)
    (folder / "hyper_cleaning.md").write_text(text + "\n")
    print(text)
    draw(runs, folder / "hyper_cleaning.png")


define_flags = experiment_flags.definer("hyper_cleaning")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
