"""Learns the learning-rate and momentum schedules of every layer through 100 training steps.

Maclaurin et al. 2015, section 3.1: a network of three hidden layers on 10,000 MNIST images; 800
logarithms of learning rates, 800 logits of momenta and 8 logarithms of the first weights' scales
follow the final training loss, with other first weights and batches in every iteration.

    python train_val/experiments/learned_schedules.py --data_dir=$DATA --seeds=0,1,2

The outer optimizer is their code's own variant of Adam (`hips_adam`); --outer_adam=textbook takes
today's. With --average_seeds=100 the first hypergradient is averaged over so many seeds instead.
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
        __doc__, experiment_flags.definer("learned_schedules"), experiment_flags.check_flags
    )

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from mlhf.meta_training import adam
from mlhf.runs.progress import ProgressBar
from train_val.cli.flags import experiment_flags
from train_val.experiments import hips_adam, mnist_slices, reporting

FLAGS = flags.FLAGS
OUTER_ADAMS = {"hips": hips_adam, "textbook": adam}
SIZES = (784, 50, 50, 50, 10)
LAYERS = [f"{kind} {i + 1}" for i in range(len(SIZES) - 1) for kind in ("weights", "biases")]


class Schedules:
    """The problem, in the parameters that are learned."""

    def __init__(
        self,
        train: mnist_slices.Examples,
        sizes: Sequence[int] = SIZES,
        steps: int = 100,
        batch_size: int = 200,
    ) -> None:
        """Describes the training.

        Args:
          train: Examples, whose loss after training is the outer loss too.
          sizes: The sizes of the network's layers.
          steps: The number of training steps, T.
          batch_size: Examples per batch, drawn at random.
        """
        shapes = mnist_slices.shapes_of(sizes)
        self.layers, self.steps = len(shapes), steps

        def initial(hyper: Any, seed: tf.Tensor) -> list[tf.Tensor]:
            return [
                tf.exp(hyper["log_scale"][i]) * tf.random.stateless_normal(shape, [seed, i])
                for i, shape in enumerate(shapes)
            ]

        def train_loss(weights: Any, hyper: Any, step: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            del hyper
            count = train.labels.shape[0]
            chosen = tf.random.stateless_uniform(
                [batch_size], [seed, 100 + step], 0, count, tf.int32
            )
            batch = mnist_slices.Examples(*(tf.gather(array, chosen) for array in train))
            return mnist_slices.cross_entropy(weights, batch)

        self.problem = hypergrad.Problem(
            train_loss,
            lambda weights, hyper: mnist_slices.cross_entropy(weights, train),
            dynamics=hypergrad.Momentum(form="M1"),
            steps=steps,
            initial=initial,
        )

    def start(self) -> dict[str, tf.Tensor]:
        """Returns the learned parameters at the beginning."""
        by_step = [self.steps, self.layers]
        return {
            "log_rate": tf.fill(by_step, -1.0),
            "logit_momentum": tf.zeros(by_step),
            "log_scale": tf.fill([self.layers], -3.0),
        }

    def differentiate(
        self, learned: dict[str, tf.Tensor], seed: int
    ) -> tuple[hypergrad.Result, dict[str, tf.Tensor]]:
        """Returns the result of a training, and its gradient in the learned parameters."""
        rate, momentum = tf.exp(learned["log_rate"]), tf.sigmoid(learned["logit_momentum"])
        result = hypergrad.reversible(
            self.problem,
            None,
            {"learning_rate": rate, "momentum": momentum, "log_scale": learned["log_scale"]},
            seed=seed,
        )
        slope = result.hypergradient
        return result, {
            "log_rate": rate * slope["learning_rate"],
            "logit_momentum": momentum * (1 - momentum) * slope["momentum"],
            "log_scale": slope["log_scale"],
        }


def run(
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    test: mnist_slices.Examples,
    seed: int = 0,
    iterations: int = 50,
    rate: float = 0.04,
    outer_adam: str = "hips",
    **problem: Any,
) -> dict[Any, Any]:
    """Learns the schedules.

    Args:
      train: The examples trained on, which the schedules are learned from too.
      valid: Examples that are only measured on.
      test: Other examples that are only measured on.
      seed: Iteration i draws with the seed 10,000 · seed + i.
      iterations: Steps of the outer optimizer.
      rate: The learning rate of the outer optimizer.
      outer_adam: The name of the outer optimizer, in `OUTER_ADAMS`.
      **problem: Arguments of `Schedules`.

    Returns:
      The curves `train_loss`, `valid_loss`, `test_loss`, `test_error`, `gradient_norm`; the learned
      `log_rate`, `logit_momentum`, `log_scale`; and `bits` of the last training's buffers.
    """
    schedules = Schedules(train, **problem)
    learned = schedules.start()
    outer = OUTER_ADAMS[outer_adam]
    state = outer.init(learned)
    loss = tf.function(mnist_slices.cross_entropy)
    names = ("train_loss", "valid_loss", "test_loss", "test_error", "gradient_norm")
    curves: dict[str, list[Any]] = {name: [] for name in names}
    for i in ProgressBar(range(iterations + 1)):
        result, gradient = schedules.differentiate(learned, 10_000 * seed + i)
        weights = result.weights
        curves["train_loss"].append(float(result.valid_loss))
        curves["valid_loss"].append(float(loss(weights, valid)))
        curves["test_loss"].append(float(loss(weights, test)))
        curves["test_error"].append(float(mnist_slices.error_rate(weights, test)))
        curves["gradient_norm"].append(float(tf.linalg.global_norm(list(gradient.values()))))
        last = learned
        learned, state = outer.update(learned, gradient, state, tf.constant(rate))
    arrays = {name: value.numpy().tolist() for name, value in last.items()}
    return curves | arrays | {"bits": result.info["bits"]}


def average(train: mnist_slices.Examples, seeds: int, **problem: Any) -> dict[str, Any]:
    """Returns the first hypergradient in the logarithms of the learning rates.

    Args:
      train: The examples trained on.
      seeds: The number of seeds to average over.
      **problem: Arguments of `Schedules`.

    Returns:
      `mean` and `deviation` over seeds, [T, G], the `first` seed's, and `roughness` of each
      seed's, [seeds, G].
    """
    schedules = Schedules(train, **problem)
    learned = schedules.start()
    found = [
        schedules.differentiate(learned, seed)[1]["log_rate"].numpy()
        for seed in ProgressBar(range(seeds), unit="seed")
    ]
    return {
        "mean": np.mean(found, 0),
        "deviation": np.std(found, 0),
        "first": found[0],
        "roughness": np.array([roughness(one) for one in found]),
    }


def roughness(curves: np.ndarray) -> np.ndarray:
    """Returns von Neumann's ratio of curves [T, G]: near 0 for smooth ones, 2 for noise.

    The mean square of the differences between neighbours, over the variance.
    """
    return np.mean(np.diff(curves, axis=0) ** 2, 0) / np.var(curves, 0)


def draw(run: dict[Any, Any], path: Path) -> None:
    """Draws the schedules of the layers' weights and the curves."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.2))
    for i in range(0, len(LAYERS), 2):
        axes[0].plot(np.exp(run["log_rate"])[:, i], label=f"layer {i // 2 + 1}")
        axes[1].plot(1 / (1 + np.exp(-np.array(run["logit_momentum"])[:, i])))
    axes[0].set(xlabel="step", ylabel="learning rate of the weights")
    axes[1].set(xlabel="step", ylabel="momentum of the weights")
    axes[0].legend(fontsize=7)
    for name in ("train_loss", "valid_loss", "test_loss"):
        axes[2].plot(run[name], label=name.replace("_", " "))
    axes[2].set(xlabel="steps on the schedules", yscale="log")
    axes[2].legend(fontsize=7)
    figure.savefig(path, bbox_inches="tight", dpi=90)
    plt.close(figure)


def draw_average(found: dict[Any, Any], path: Path, seeds: int) -> None:
    """Draws the first hypergradient of the layers' weights: one seed's, and the average."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.2), sharey=True)
    for i in range(0, len(LAYERS), 2):
        mean, error = found["mean"][:, i], found["deviation"][:, i] / np.sqrt(seeds)
        axes[0].plot(found["first"][:, i])
        axes[1].plot(mean, label=f"layer {i // 2 + 1}")
        axes[1].fill_between(np.arange(len(mean)), mean - error, mean + error, alpha=0.3)
    axes[0].set(xlabel="step", ylabel="d final loss / d log learning rate", title="one seed")
    axes[1].set(xlabel="step", title=f"mean of {seeds} seeds")
    axes[1].legend(fontsize=7)
    figure.savefig(path, bbox_inches="tight", dpi=110)
    plt.close(figure)


def average_as_markdown(found: dict[Any, Any]) -> str:
    """Returns a table of roughness by layer."""
    lines = ["| weights of layer | roughness of one seed, mean | of the average |", "|---|---|---|"]
    one, mean = found["roughness"].mean(0), roughness(found["mean"])
    lines += [f"| {i // 2 + 1} | {one[i]:.3f} | {mean[i]:.3f} |" for i in range(0, len(LAYERS), 2)]
    return "\n".join(lines)


def main() -> None:
    """Runs all seeds, prints and draws."""
    train, valid, test = mnist_slices.load_slices(FLAGS.data_dir, [10_000] * 3)
    folder = reporting.folder(FLAGS.output)
    if FLAGS.average_seeds:
        found = average(train, FLAGS.average_seeds)
        path = folder / "initial_hypergradient.npz"
        np.savez(path, **found)
        draw_average(found, folder / "initial_hypergradient.png", FLAGS.average_seeds)
        text = average_as_markdown(found)
        (folder / "initial_hypergradient.md").write_text(text + "\n")
        print(text)
        return
    runs = reporting.run_seeds(
        "learned_schedules",
        ["data_dir", "iterations", "outer_adam"],
        lambda seed: run(train, valid, test, seed, FLAGS.iterations, outer_adam=FLAGS.outer_adam),
    )
    text = reporting.table(runs, ["train_loss", "valid_loss", "test_loss", "test_error"])
    (folder / "learned_schedules.md").write_text(text + "\n")
    print(text)
    draw(next(iter(runs.values())), folder / "learned_schedules.png")


define_flags = experiment_flags.definer("learned_schedules")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
