"""Learning rate, momentum and penalties of every layer by forward, reverse and online mode.

The example of RFHO (Franceschi et al. 2017) on MNIST: softmax regression, a network of four hidden
layers of 50, and a small convolutional network; 100 steps of momentum (50 of the last) on batches
of 50, with an L1 and an L2 penalty for each layer. Adam moves all hyperparameters along the
gradient of the validation loss.

  reverse, forward  successive trainings from the start, each with hyperparameters moved by the
                    previous one's hypergradient; both are exact, so that both take the same path
  rtho              one training as long as all of those, with as many moves
  warm restart      the same, but the derivative is reset to zero after each move

    python train_val/experiments/all_methods.py --data_dir=$DATA --seeds=0,1,2
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import experiment_flags

    experiment_flags.begin("all_methods", __doc__)

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from train_val.cli.flags import experiment_flags
from train_val.experiments import mnist_slices, reporting

FLAGS = flags.FLAGS


class Setting(NamedTuple):
    """A network, and the lengths of its training and tuning."""

    shapes: list[list[int]]  # kernel, bias, kernel, ...
    moves: int  # of the hyperparameters
    steps: int  # of training from one to the next


NETWORKS = {
    "softmax": Setting(mnist_slices.shapes_of([784, 10]), 20, 100),
    "mlp": Setting(mnist_slices.shapes_of([784, 50, 50, 50, 50, 10]), 20, 100),
    "cnn": Setting([[5, 5, 1, 8], [8], [5, 5, 8, 16], [16], [784, 10], [10]], 10, 50),
}
METHODS = ("reverse", "forward", "rtho", "warm restart")
# Adam's, by hyperparameter.
RATES = {"learning_rate": 0.01, "momentum": 0.02, "log_l1": 0.2, "log_l2": 0.2}


def first_weights(shapes: list[list[int]], seed: int) -> list[tf.Tensor]:
    """Returns kernels of variance 1 / inputs, and biases of zero."""
    random = np.random.default_rng(seed)
    return [
        tf.constant(random.normal(size=shape) / math.sqrt(math.prod(shape[:-1])), tf.float32)
        if len(shape) > 1
        else tf.zeros(shape)
        for shape in shapes
    ]


def logits_of(weights: Any, images: tf.Tensor) -> tf.Tensor:
    """Returns the logits [N, 10] of [kernel, bias, ...]; a kernel's rank says what it is.

    Convolutions have strides of two and are followed by ReLU; hidden layers are followed by tanh.
    """
    if weights[0].shape.rank == 4:
        images = tf.reshape(images, [-1, 28, 28, 1])
    for i in range(0, len(weights) - 2, 2):
        kernel, bias = weights[i], weights[i + 1]
        if kernel.shape.rank == 4:
            images = tf.nn.relu(tf.nn.conv2d(images, kernel, 2, "SAME") + bias)
        else:
            images = tf.tanh(images @ kernel + bias)
    images = tf.reshape(images, [-1, weights[-2].shape[0]])
    return images @ weights[-2] + weights[-1]


def cross_entropy(weights: Any, examples: Any) -> tf.Tensor:
    """Returns the mean cross entropy on examples."""
    logits = logits_of(weights, examples.images)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(examples.labels, logits))


@tf.function
def error_rate(weights: Any, examples: Any) -> tf.Tensor:
    """Returns the fraction of examples that are classified wrong."""
    guess = tf.argmax(logits_of(weights, examples.images), 1, tf.int32)
    return tf.reduce_mean(tf.cast(guess != examples.labels, tf.float32))


def penalized_loss(weights: Any, hyper: Any, step: tf.Tensor, batch: Any) -> tf.Tensor:
    """Returns the cross entropy on a batch and the penalties of the layers' kernels.

    `log_l1` and `log_l2`, if they are among the hyperparameters, have a number for each layer or
    one for all.
    """
    del step
    loss = cross_entropy(weights, mnist_slices.Examples(*batch))
    kernels = weights[::2]
    sizes_of: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
        "log_l1": lambda kernel: tf.reduce_sum(tf.abs(kernel)),
        "log_l2": lambda kernel: tf.reduce_sum(kernel**2),
    }
    for name, size in sizes_of.items():
        if name in hyper:
            sizes = tf.stack([size(kernel) for kernel in kernels])
            loss += tf.reduce_sum(tf.exp(hyper[name]) * sizes)
    return loss


def training(
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    steps: int,
    batch_size: int,
    seed: int,
) -> hypergrad.Problem:
    """Returns T steps of momentum on a penalized loss, measured on other examples."""
    return hypergrad.Problem(
        penalized_loss,
        lambda weights, hyper: cross_entropy(weights, valid),
        dynamics=hypergrad.Momentum(),
        steps=steps,
        batches=hypergrad.Minibatches(tuple(train), batch_size, steps, seed=seed),
    )


def tune(
    method: str,
    train_for: Callable[[int], hypergrad.Problem],
    weights: Any,
    hyper: dict[str, Any],
    iterations: int,
    steps: int,
    rates: dict[str, float],
) -> dict[str, Any]:
    """Moves hyperparameters by Adam, along one method's hypergradients.

    Args:
      method: A name in `METHODS`.
      train_for: A function from T to the problem.
      weights: The initial weights.
      hyper: The initial hyperparameters.
      iterations: The number of moves of the hyperparameters.
      steps: The number of training steps from one move to the next.
      rates: Adam's learning rates, by name.

    Returns:
      `valid_loss`, before each move and, if trainings start anew, after the last; `seconds`, the
      processor's time up to each, without compilation in the first step; `hyperparameters`, the
      last ones; `first`, the first hypergradient; and the last `weights`, as tensors.
    """
    online = method in ("rtho", "warm restart")
    clock: list[float] = []
    gradients: list[dict[str, Any]] = []

    def process(gradient: Any) -> Any:
        clock.append(time.process_time())
        gradients.append(gradient)
        return gradient

    problem = train_for(steps * iterations if online else steps)
    options = {"every": steps, "warm_restart": method == "warm restart"}
    outer = hypergrad.HyperOptimizer(
        problem,
        weights,
        hyper,
        method="rtho" if online else method,
        outer_optimizer={name: keras.optimizers.Adam(rates[name]) for name in hyper},
        options=options if online else {"per_step": False} if method == "reverse" else {},
        process=process,
        # One order of the minibatches, that all methods are compared on.
        new_seeds=False,
        most_skips=0,
    )
    outer.run(1 if online else iterations)
    each = statistics.median(np.diff(clock)) if len(clock) > 1 else 0.0
    seconds = [now - clock[0] + each for now in clock]
    last = outer.result
    assert last is not None  # the run above took a step
    if online:
        losses = [float(move["valid_loss"]) for move in last.info["moves"]]
    else:
        losses = [float(record["valid_loss"]) for record in outer.records]
        last = hypergrad.train(problem, weights, outer.hyperparameters)
        losses.append(float(last.valid_loss))
        seconds.append(seconds[-1] + each)
    return {
        "valid_loss": losses,
        "seconds": seconds,
        "hyperparameters": as_lists(outer.hyperparameters),
        "first": as_lists(gradients[0]),
        "weights": last.weights,
    }


def as_lists(values: dict[str, tf.Tensor]) -> dict[str, Any]:
    """Returns tensors as nested lists."""
    return {name: value.numpy().tolist() for name, value in values.items()}


def start(shapes: list[list[int]]) -> dict[str, Any]:
    """Returns the initial hyperparameters: two numbers, and two for each layer."""
    penalty = tf.fill([len(shapes) // 2], -9.0)
    return {"learning_rate": 0.02, "momentum": 0.5, "log_l1": penalty, "log_l2": penalty}


def run(
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    test: mnist_slices.Examples,
    setting: Setting,
    seed: int = 0,
    batch_size: int = 50,
    methods: Sequence[str] = METHODS,
) -> dict[Any, Any]:
    """Tunes one network by several methods.

    Args:
      train: Training examples.
      valid: Examples that hyperparameters are learned from.
      test: Examples that are only measured on.
      setting: The network.
      seed: The seed of initial weights and batches, the same in every iteration.
      batch_size: Examples per batch.
      methods: Names in `METHODS`.

    Returns:
      For each method the results of `tune`, with `test_error` instead of the weights.
    """
    weights, found = first_weights(setting.shapes, seed), {}
    for method in methods:
        got = tune(
            method,
            lambda count: training(train, valid, count, batch_size, seed),
            weights,
            start(setting.shapes),
            setting.moves,
            setting.steps,
            RATES,
        )
        got["test_error"] = float(error_rate(got.pop("weights"), test))
        found[method] = got
        print(
            f"{method}: outer loss {got['valid_loss'][0]:.4f} to {got['valid_loss'][-1]:.4f}",
            flush=True,
        )
    return found


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Returns the largest relative distance of two dictionaries' entries."""
    pairs = [(np.array(one[name]), np.array(other[name])) for name in one]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def as_markdown(runs: dict[Any, Any]) -> str:
    """Returns a table for each network: means over all seeds."""
    lines = []
    for network in next(iter(runs.values())):
        found = [run[network] for run in runs.values()]
        moves = len(found[0]["reverse"]["valid_loss"]) - 1
        lines += [
            f"\n{network}: {moves} moves, mean of {len(found)} seeds\n",
            "| method | outer loss, first | last | test error | seconds a move | learning rate "
            "| momentum | first hypergradient off |",
            "|---" * 8 + "|",
        ]
        for method in found[0]:
            runs_of = [run[method] for run in found]
            columns = [
                [run["valid_loss"][0] for run in runs_of],
                [run["valid_loss"][-1] for run in runs_of],
                [run["test_error"] for run in runs_of],
                [run["seconds"][0] for run in runs_of],
                [run["hyperparameters"]["learning_rate"] for run in runs_of],
                [run["hyperparameters"]["momentum"] for run in runs_of],
            ]
            off = max(apart(run[method]["first"], run["reverse"]["first"]) for run in found)
            lines.append(
                f"| {method} | "
                + " | ".join(f"{statistics.mean(column):.4f}" for column in columns)
                + f" | {off:.0e} |"
            )
    return "\n".join(lines).strip()


def draw(runs: dict[Any, Any], path: Path) -> None:
    """Draws the first seed's outer losses against seconds, with a panel for each network."""
    import matplotlib.pyplot as plt

    first = next(iter(runs.values()))
    figure, axes = plt.subplots(1, len(first), figsize=(4 * len(first), 3.2), squeeze=False)
    for axis, (network, found) in zip(axes[0], first.items(), strict=True):
        for method, run in found.items():
            axis.loglog(run["seconds"], run["valid_loss"], label=method, alpha=0.8)
        axis.set(title=network, xlabel="seconds of one processor")
    axes[0][0].set_ylabel("outer loss")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight", dpi=130)
    plt.close(figure)


def main() -> None:
    """Runs all seeds, prints and draws."""
    train, valid, test = mnist_slices.load_slices(FLAGS.data_dir, [10_000] * 3)
    folder = reporting.folder(FLAGS.output)
    runs = reporting.run_seeds(
        "all_methods",
        ["data_dir", "networks"],
        lambda seed: {
            network: run(train, valid, test, NETWORKS[network], seed) for network in FLAGS.networks
        },
    )
    text = as_markdown(runs)
    (folder / "all_methods.md").write_text(text + "\n")
    print(text)
    draw(runs, folder / "all_methods.png")


define_flags = experiment_flags.definer("all_methods")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
