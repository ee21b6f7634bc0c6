"""Compares moving hyperparameters during a single training with trainings from the start.

After FAR-HO's demonstration on MNIST: learning rate, momentum and L2 of a network of three hidden
layers, moved by Adam, by the hypergradients of

  reverse, forward  20 trainings of 200 steps, each with the move after the one before
  rtho              one training of 4,000 steps with a move every 100 (Franceschi et al. 2017)
  warm restart      the same, and the derivative begins again at zero after each move
  no moves          one training of 4,000 steps with the hyperparameters as they begin

The outer loss against the seconds of one processor; the layers have 100 units, not FAR-HO's 400.

    python train_val/experiments/online_tuning.py --data_dir=$DATA --seeds=0,1,2
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import experiment_flags

    experiment_flags.begin("online_tuning", __doc__)

import statistics
from collections.abc import Sequence

from absl import flags

from mlhf import hypergrad
from train_val.cli.flags import experiment_flags
from train_val.experiments import mnist_slices, reporting
from train_val.experiments.all_methods import METHODS, error_rate, first_weights, training, tune

FLAGS = flags.FLAGS
SIZES = (784, 100, 100, 100, 10)
START = {"learning_rate": 0.01, "momentum": 0.5, "log_l2": -9.0}
RATES = {"learning_rate": 0.005, "momentum": 0.02, "log_l2": 0.2}
NO_MOVES = "no moves"


def run(
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    test: mnist_slices.Examples,
    seed: int = 0,
    iterations: int = 20,
    sizes: Sequence[int] = SIZES,
    steps: int = 200,
    every: int = 100,
    batch_size: int = 100,
    methods: Sequence[str] = METHODS,
) -> dict[Any, Any]:
    """Tunes by several methods, all with as many steps of training in all.

    Args:
      train: Training examples.
      valid: Examples that hyperparameters are learned from.
      test: Examples that are only measured on.
      seed: The seed of initial weights and batches.
      iterations: The number of trainings from the start.
      sizes: The sizes of the network's layers.
      steps: The number of steps of each of them.
      every: Steps from one move to the next in a single training; divides steps · iterations.
      batch_size: Examples per batch.
      methods: Names in `METHODS`.

    Returns:
      For each method the results of `all_methods.tune`, with `test_error` instead of the weights;
      and for `NO_MOVES` the last `valid_loss`, in a list, and `test_error`.
    """
    weights, found = first_weights(mnist_slices.shapes_of(sizes), seed), {}

    def train_for(count: int) -> hypergrad.Problem:
        return training(train, valid, count, batch_size, seed)

    for method in methods:
        online = method not in ("reverse", "forward")
        length = every if online else steps
        moves = steps * iterations // length
        got = tune(method, train_for, weights, START, moves, length, RATES)
        got["test_error"] = float(error_rate(got.pop("weights"), test))
        found[method] = got
        print(
            f"{method}: outer loss {got['valid_loss'][0]:.4f} to {got['valid_loss'][-1]:.4f}",
            flush=True,
        )
    plain = hypergrad.train(train_for(steps * iterations), weights, START)
    found[NO_MOVES] = {
        "valid_loss": [float(plain.valid_loss)],
        "test_error": float(error_rate(plain.weights, test)),
    }
    return found


def as_markdown(runs: dict[Any, Any]) -> str:
    """Returns a table of the methods: means over the seeds."""
    lines = [
        "| method | outer loss, last | best | test error | seconds in all | learning rate "
        "| momentum | log L2 |",
        "|---" * 8 + "|",
    ]
    for method in next(iter(runs.values())):
        found = [run[method] for run in runs.values()]
        columns = [
            [run["valid_loss"][-1] for run in found],
            [min(run["valid_loss"]) for run in found],
            [run["test_error"] for run in found],
        ]
        if method != NO_MOVES:
            columns.append([run["seconds"][-1] for run in found])
            columns += [[run["hyperparameters"][name] for run in found] for name in START]
        cells = [f"{statistics.mean(column):.4f}" for column in columns] + [""] * 5
        lines.append(f"| {method} | " + " | ".join(cells[:7]) + " |")
    return "\n".join(lines)


def draw(runs: dict[Any, Any], path: Path) -> None:
    """Draws the outer losses of all seeds against seconds."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.4))
    for i, run in enumerate(runs.values()):
        for method, color in zip(METHODS, ("C0", "C1", "C2", "C3"), strict=True):
            if method in run:
                label = method if i == 0 else None
                curve = run[method]["seconds"], run[method]["valid_loss"]
                axis.loglog(*curve, color=color, alpha=0.8, label=label)
    axis.set(xlabel="seconds of one processor", ylabel="outer loss")
    axis.legend(fontsize=7)
    figure.savefig(path, bbox_inches="tight", dpi=130)
    plt.close(figure)


def main() -> None:
    """Runs all seeds, prints and draws."""
    train, valid, test = mnist_slices.load_slices(FLAGS.data_dir, [10_000] * 3)
    folder = reporting.folder(FLAGS.output)
    runs = reporting.run_seeds(
        "online_tuning",
        ["data_dir", "iterations"],
        lambda seed: run(train, valid, test, seed, FLAGS.iterations),
    )
    text = as_markdown(runs)
    (folder / "online_tuning.md").write_text(text + "\n")
    print(text)
    draw(runs, folder / "online_tuning.png")


define_flags = experiment_flags.definer("online_tuning")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
