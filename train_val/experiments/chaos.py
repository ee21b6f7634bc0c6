"""Shows where an exact hypergradient is meaningless: training at the edge of chaos.

Maclaurin et al. 2015, section 4: the training loss after 50 steps of momentum, as a function of
one learning rate, is smooth for small rates and fractal for large ones. The derivative is exact
everywhere. Does its sign predict where the loss goes? The trend is that of the losses at the
neighbours, `TREND` away. And what would a bound on the growth of the adjoint (`largest_growth` of
`reverse`) have refused?

The network is 784-200-50-10 on the first 1,000 images of MNIST, pixels divided by 255 without
subtracting the mean (with it there is no chaos in this range), in batches of 250 in order.

    python train_val/experiments/chaos.py --data_dir=$DATA --seeds=0,1,2 --points=400
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import experiment_flags

    experiment_flags.begin("chaos", __doc__)

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
SIZES = (784, 200, 50, 10)
RANGE = (0.5, 2.5)
TREND = 0.01  # half the width of the difference quotient, in log learning rate
EDGES = (0.5, 1.0, 1.4, 1.6, 1.8, 2.0, 2.25, 2.5)
BOUNDS = (1e1, 1e2, 1e3, 1e4, 1e6, math.inf)
CURVES = ("log_rate", "loss", "gradient", "growth")


def describe(
    train: mnist_slices.Examples,
    seed: int = 0,
    sizes: Sequence[int] = SIZES,
    steps: int = 50,
    batch_size: int = 250,
    momentum: float = 0.9,
) -> tuple[hypergrad.Problem, list[tf.Tensor]]:
    """Returns the problem and the initial weights."""

    def train_loss(weights: Any, hyper: Any, step: tf.Tensor, batch: Any) -> tf.Tensor:
        del hyper, step
        return mnist_slices.cross_entropy(weights, mnist_slices.Examples(*batch))

    problem = hypergrad.Problem(
        train_loss,
        lambda weights, hyper: mnist_slices.cross_entropy(weights, train),
        dynamics=hypergrad.Momentum(momentum=momentum, form="M1"),
        steps=steps,
        batches=hypergrad.Minibatches(tuple(train), batch_size, steps, shuffle=False),
    )
    return problem, mnist_slices.normal_weights(sizes, math.exp(-2), seed)


def run(
    train: mnist_slices.Examples,
    seed: int = 0,
    points: int = 400,
    sizes: Sequence[int] = SIZES,
    steps: int = 50,
    batch_size: int = 250,
    momentum: float = 0.9,
) -> dict[Any, Any]:
    """Trains with one learning rate after another.

    Args:
      train: The examples.
      seed: The seed of the initial weights, the same for all rates.
      points: The number of rates.
      sizes: The sizes of the network's layers.
      steps: The number of training steps, T.
      batch_size: Examples per batch, in the order of the data.
      momentum: The momentum of M1.

    Returns:
      Lists by the names of `CURVES`: the logarithm of the rate, the loss on all examples after
      training, its derivative in the logarithm, and the largest ‖∂E/∂w_t‖ as a multiple of the
      last. They are NaN if training or the derivative is not finite.
    """
    problem, weights = describe(train, seed, sizes, steps, batch_size, momentum)
    found: dict[str, list[float]] = {name: [] for name in CURVES}
    for log_rate in ProgressBar(np.linspace(*RANGE, points), unit="rate"):
        rate = tf.constant(math.exp(log_rate), tf.float32)
        try:
            result = hypergrad.reverse(
                problem, weights, {"learning_rate": rate}, per_step=False, largest_growth=None
            )
            norm = result.adjoint_norm["valid_loss"]
            row = (
                float(result.valid_loss),
                float(rate * result.hypergradient["learning_rate"]),
                float(tf.reduce_max(norm) / norm[-1]),
            )
        except hypergrad.DivergedError:
            row = (math.nan,) * 3
        for name, value in zip(CURVES, (float(log_rate), *row), strict=True):
            found[name].append(value)
    return found


def agreement(found: dict[Any, Any]) -> np.ndarray:
    """Returns whether the signs of derivative and trend agree, [points].

    The trend is the difference of the losses `TREND` to the right and to the left (at least one
    point). NaN if there are no such neighbours, a loss is not finite, or either of the two is zero.
    """
    x, loss, slope = (np.array(found[name]) for name in CURVES[:3])
    away = max(1, round(TREND / (x[1] - x[0])))
    trend = np.full_like(loss, np.nan)
    trend[away:-away] = loss[2 * away :] - loss[: -2 * away]
    product = np.sign(trend) * np.sign(slope)
    return np.where(np.isfinite(product) & (product != 0), product > 0, np.nan)


def by_rate(runs: dict[Any, Any]) -> list[tuple[Any, ...]]:
    """Returns low, high, agreement, median |derivative|, median growth, points; by `EDGES`."""
    x, slope, growth, agree = _joined(runs)
    rows = []
    for low, high in zip(EDGES[:-1], EDGES[1:], strict=True):
        inside = (x >= low) & ((x < high) | (high == EDGES[-1]))
        known = inside & np.isfinite(agree)
        rows.append(
            (
                low,
                high,
                _mean(agree[known]),
                float(np.nanmedian(np.abs(slope[inside]))),
                float(np.nanmedian(growth[inside])),
                int(known.sum()),
            )
        )
    return rows


def by_bound(runs: dict[Any, Any]) -> list[tuple[Any, ...]]:
    """Returns bound, share refused, and agreement among accepted and among refused points."""
    _, _, growth, agree = _joined(runs)
    known = np.isfinite(agree)
    growth, agree = growth[known], agree[known]
    rows = []
    for bound in BOUNDS:
        accepted = growth <= bound
        rows.append(
            (bound, float(np.mean(~accepted)), _mean(agree[accepted]), _mean(agree[~accepted]))
        )
    return rows


def _joined(runs: dict[Any, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    columns = [np.concatenate([run[name] for run in runs.values()]) for name in CURVES]
    return columns[0], columns[2], columns[3], np.concatenate([agreement(r) for r in runs.values()])


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def best(found: dict[Any, Any]) -> tuple[float, float, float]:
    """Returns log learning rate, loss and growth at the least loss."""
    i = int(np.nanargmin(found["loss"]))
    return found["log_rate"][i], found["loss"][i], found["growth"][i]


def as_markdown(runs: dict[Any, Any]) -> str:
    """Returns the tables by learning rate and by bound, and the best losses."""
    lines = [
        "| log learning rate | sign agrees | median abs. derivative | median growth | points |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {low} to {high} | {100 * agree:.0f}% | {slope:.2g} | {growth:.2g} | {count} |"
        for low, high, agree, slope, growth, count in by_rate(runs)
    ]
    lines += [
        "",
        "| largest_growth | refused | sign agrees, accepted | refused |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {bound:g} | {100 * share:.0f}% | {100 * yes:.0f}% | {100 * no:.0f}% |".replace(
            "nan%", "-"
        )
        for bound, share, yes, no in by_bound(runs)
    ]
    lines += [
        "",
        "| seed | least loss | at log learning rate | growth there |",
        "|---|---|---|---|",
    ]
    for seed, found in runs.items():
        rate, loss, growth = best(found)
        lines.append(f"| {seed} | {loss:.5f} | {rate:.2f} | {growth:.3g} |")
    return "\n".join(lines)


def draw(found: dict[Any, Any], path: Path) -> None:
    """Draws loss, derivative and growth against the learning rate."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(7, 6.5), sharex=True)
    x, loss, slope, growth = (np.array(found[name]) for name in CURVES)
    axes[0].plot(x, loss, "k", linewidth=0.8)
    axes[0].plot(*best(found)[:2], "v", color="tab:green", label="least")
    axes[0].set(ylabel="training loss after 50 steps", yscale="log")
    axes[0].legend(fontsize=7)
    axes[1].plot(x, slope, "k", linewidth=0.8)
    agree = agreement(found)
    for value, color, label in ((1, "tab:blue", "right sign"), (0, "tab:red", "wrong sign")):
        axes[1].plot(x[agree == value], slope[agree == value], ".", color=color, ms=3, label=label)
    axes[1].set_yscale("symlog", linthresh=1e-2)
    axes[1].set_yticks([-1e6, -1e3, -1, 0, 1, 1e3, 1e6])
    axes[1].set_ylabel("derivative in log rate")
    axes[1].legend(fontsize=7)
    axes[2].plot(x, growth, "k", linewidth=0.8)
    axes[2].axhline(1e6, color="gray", linestyle=":", label="default of largest_growth")
    axes[2].set(ylabel="growth of the adjoint", yscale="log", xlabel="log learning rate")
    axes[2].legend(fontsize=7)
    figure.savefig(path, bbox_inches="tight", dpi=100)
    plt.close(figure)


def load(data_dir: str | None, count: int = 1000) -> mnist_slices.Examples:
    """Returns the first images of MNIST, pixels divided by 255."""
    (train,) = mnist_slices.load_slices(data_dir, [count], centred=False)
    return train


def main() -> None:
    """Runs all seeds, prints and draws."""
    train = load(FLAGS.data_dir)
    folder = reporting.folder(FLAGS.output)
    runs = reporting.run_seeds(
        "chaos",
        ["data_dir", "points"],
        lambda seed: run(train, seed, FLAGS.points),
    )
    text = as_markdown(runs)
    (folder / "chaos.md").write_text(text + "\n")
    print(text)
    draw(next(iter(runs.values())), folder / "chaos.png")


define_flags = experiment_flags.definer("chaos")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
