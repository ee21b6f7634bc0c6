"""Learns a penalty ever more finely: one strength for all weights, per layer, and per unit.

An experiment of the code of Maclaurin et al. 2015 that is not in their paper: 784-1000-1000-10 on
1,000 images of MNIST, 100 steps of momentum. A weight is w = z exp(t); z begins small and is
penalised by exp(log L2) Σ z², which is a penalty exp(log L2 - 2t) on w. The t of the three kernels
follow the validation loss by the sign of the hypergradient, averaged over all weights, then over
the weights of a layer, then over those that leave a unit; every stage begins where the one before
ended. First weights, batches and the split into training and validation images are others at every
step. The test loss is that of a training on all 2,000 images.

    python train_val/experiments/penalty_granularity.py --data_dir=$DATA --seeds=0,1,2
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
        __doc__, experiment_flags.definer("penalty_granularity"), experiment_flags.check_flags
    )

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from mlhf.runs.progress import ProgressBar
from train_val.cli.flags import experiment_flags
from train_val.experiments import mnist_slices, reporting

FLAGS = flags.FLAGS
SIZES = (784, 1000, 1000, 10)
STAGES = (("all", 10), ("layers", 5), ("units", 3))
LOG_L2 = -4.0


class Granularity:
    """Training with t, on half of the examples or on all of them."""

    def __init__(
        self,
        examples: mnist_slices.Examples,
        sizes: Sequence[int] = SIZES,
        steps: int = 100,
        batch_size: int = 200,
    ) -> None:
        """Describes the training.

        Args:
          examples: Training and validation images together.
          sizes: The sizes of the network's layers.
          steps: The number of training steps, T.
          batch_size: Examples per batch, drawn at random.
        """
        shapes = mnist_slices.shapes_of(sizes)
        count = int(examples.labels.shape[0])

        def chosen(rows: tf.Tensor) -> mnist_slices.Examples:
            return mnist_slices.Examples(*(tf.gather(array, rows) for array in examples))

        def halves(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            order = tf.random.experimental.stateless_shuffle(tf.range(count), [seed, 1])
            return order[: count // 2], order[count // 2 :]

        def initial(hyper: Any, seed: tf.Tensor) -> list[tf.Tensor]:
            del hyper
            return [
                math.exp(-3) * tf.random.stateless_normal(shape, [seed, 100 + i])
                for i, shape in enumerate(shapes)
            ]

        def describe(on_all: bool) -> hypergrad.Problem:
            def train_loss(z: Any, hyper: Any, step: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
                rows = tf.range(count) if on_all else halves(seed)[0]
                drawn = tf.random.stateless_uniform(
                    [batch_size], [seed, 1000 + step], 0, rows.shape[0], tf.int32
                )
                batch = chosen(tf.gather(rows, drawn))
                penalty = tf.add_n([tf.reduce_sum(leaf**2) for leaf in z])
                return (
                    mnist_slices.cross_entropy(weights_of(z, hyper), batch)
                    + math.exp(LOG_L2) * penalty
                )

            def valid_loss(z: Any, hyper: Any, seed: tf.Tensor) -> tf.Tensor:
                rows = tf.range(count) if on_all else halves(seed)[1]
                return mnist_slices.cross_entropy(weights_of(z, hyper), chosen(rows))

            return hypergrad.Problem(
                train_loss,
                valid_loss,
                dynamics=hypergrad.Momentum(0.3, 0.9, form="M1"),
                steps=steps,
                initial=initial,
            )

        self.kernels = [shape for shape in shapes if len(shape) == 2]
        self._half, self._all = describe(False), describe(True)

    def start(self) -> list[tf.Tensor]:
        """Returns t at the beginning, zeros of the kernels' shapes."""
        return [tf.zeros(shape) for shape in self.kernels]

    def differentiate(self, t: Any, seed: int) -> tuple[float, list[tf.Tensor]]:
        """Returns the validation loss after training on one half, and its gradient in t."""
        # Stored states, 1.5 GB: the arithmetic of `reversible` would cost more than the training.
        result = hypergrad.reverse(self._half, None, {"t": t}, seed=seed, per_step=False)
        return float(result.valid_loss), result.hypergradient["t"]

    def train(self, t: Any, seed: int) -> list[tf.Tensor]:
        """Returns the network's weights after training on all examples."""
        result = hypergrad.train(self._all, None, {"t": t}, seed=seed)
        return weights_of(result.weights, {"t": t})


def weights_of(z: Any, hyper: Any) -> list[tf.Tensor]:
    """Returns the network's weights: kernels z exp(t), biases as they are."""
    pairs = zip(z[::2], z[1::2], hyper["t"], strict=True)
    return [part for kernel, bias, t in pairs for part in (kernel * tf.exp(t), bias)]


def run(
    examples: mnist_slices.Examples,
    test: mnist_slices.Examples,
    seed: int = 0,
    stages: Sequence[tuple[str, int]] = STAGES,
    rate: float = 0.1,
    **problem: Any,
) -> dict[Any, Any]:
    """Learns t in stages that become ever finer.

    Args:
      examples: Training and validation images together.
      test: Examples that are only measured on.
      seed: Step i of stage k draws with the seed 10,000 · seed + 100 · k + i.
      stages: Sharings and their steps.
      rate: The size of a step.
      **problem: Arguments of `Granularity`.

    Returns:
      `test_loss`, before the first step and after each stage; `valid_loss`, before each step, a
      list for each stage; and `by_unit`, the t of each unit at the end, by stage and layer.
    """
    granularity = Granularity(examples, **problem)
    t = granularity.start()
    test_loss = tf.function(mnist_slices.cross_entropy)
    found: dict[str, list[Any]] = {
        "test_loss": [float(test_loss(granularity.train(t, 10_000 * seed), test))],
        "valid_loss": [],
        "by_unit": [],
    }
    bar = ProgressBar(total=sum(steps for _, steps in stages))
    for k, (sharing, steps) in enumerate(stages):
        validated = []
        for i in range(steps):
            value, gradient = granularity.differentiate(t, 10_000 * seed + 100 * k + i)
            validated.append(value)
            moves = hypergrad.share(gradient, sharing, sign=True)
            t = [leaf - rate * move for leaf, move in zip(t, moves, strict=True)]
            bar.update()
            bar.show(valid_loss=f"{value:.4f}", sharing=sharing)
        found["test_loss"].append(
            float(test_loss(granularity.train(t, 10_000 * seed + 100 * k + steps), test))
        )
        found["valid_loss"].append(validated)
        found["by_unit"].append([leaf[:, 0].numpy().tolist() for leaf in t])
        bar.show(test_loss=f"{found['test_loss'][-1]:.4f}", sharing=sharing)
    bar.close()
    return found


def as_markdown(runs: dict[Any, Any], stages: Sequence[tuple[str, int]] = STAGES) -> str:
    """Returns a table of test losses at the beginning and after each stage."""
    lines = ["| seed | before | " + " | ".join(f"after {n} x {s}" for s, n in stages) + " |"]
    lines.append("|---" * (2 + len(stages)) + "|")
    rows = [run["test_loss"] for run in runs.values()]
    names = [str(seed) for seed in runs]
    if len(rows) > 1:
        rows.append(list(np.mean(rows, 0)))
        names.append("mean")
    lines += [
        f"| {name} | " + " | ".join(f"{value:.4f}" for value in row) + " |"
        for name, row in zip(names, rows, strict=True)
    ]
    return "\n".join(lines)


def draw(runs: dict[Any, Any], path: Path, stages: Sequence[tuple[str, int]] = STAGES) -> None:
    """Draws the test losses against the steps, and the penalties of the pixels at the end."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(2, 1))
    ends = np.cumsum([0, *(steps for _, steps in stages)])
    labels = {"all": "one value", "layers": "one per layer", "units": "one per unit"}
    for number, run in enumerate(runs.values()):
        axes[0].plot(ends, run["test_loss"], "ko", ms=4, label=None if number else "test")
        for k, losses in enumerate(run["valid_loss"]):
            label = None if number else f"validation, {labels[stages[k][0]]}"
            axes[0].plot(ends[k] + np.arange(len(losses)), losses, ".-", color=f"C{k}", label=label)
    axes[0].set(xlabel="steps on t", ylabel="loss after training")
    axes[0].legend(fontsize=7)
    pixels = LOG_L2 - 2 * np.array(next(iter(runs.values()))["by_unit"][-1][0])
    if pixels.size == 784:
        shown = axes[1].imshow(pixels.reshape(28, 28), "viridis")
        figure.colorbar(shown, ax=axes[1])
    axes[1].set_title("log penalty, by pixel", fontsize=9)
    axes[1].axis("off")
    figure.savefig(path, bbox_inches="tight", dpi=110)
    plt.close(figure)


def main() -> None:
    """Runs all seeds, prints and draws."""
    examples, test = mnist_slices.load_slices(FLAGS.data_dir, [2_000, 10_000])
    folder = reporting.folder(FLAGS.output)
    runs = reporting.run_seeds(
        "penalty_granularity",
        ["data_dir"],
        lambda seed: run(examples, test, seed),
    )
    text = as_markdown(runs)
    (folder / "penalty_granularity.md").write_text(text + "\n")
    print(text)
    draw(runs, folder / "penalty_granularity.png")


define_flags = experiment_flags.definer("penalty_granularity")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
