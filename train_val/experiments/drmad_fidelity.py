"""Measures how close DrMAD comes to the exact hypergradient, beside methods of the same cost.

The setting of Fu et al. 2016 on MNIST: three hidden layers of 50, 15,000 training and 5,000
validation images, batches of 50, 2,000 steps of momentum. Hyperparameters of every weight,

  transform  w = z exp(t), penalty e⁻⁴ Σ z², the authors' parameterisation: the outer loss reads t
  log_l2     penalty Σ exp(l) w², l = -8: everything comes through training

by the exact gradient, by the outer loss's direct term alone, by DrMAD with its options, by a
truncated reverse pass as long as DrMAD's, and by one sign for all. The measures are cosines and
norms compared with the exact gradient, by weight and by unit (the mean over an input unit's
outgoing weights), the share of units whose sign agrees, and the cosine without the direct term;
then the cosine against the number of DrMAD's points and of truncated steps.

    python train_val/experiments/drmad_fidelity.py --data_dir=$DATA --seeds=0,1,2
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import experiment_flags

    experiment_flags.begin("drmad_fidelity", __doc__)

import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from train_val.cli.flags import experiment_flags
from train_val.experiments import mnist_slices, reporting

FLAGS = flags.FLAGS
SIZES = (784, 50, 50, 50, 10)
PARAMETERISATIONS = ("transform", "log_l2")
MEASURES = ("cosine_units", "cosine_weights", "cosine_through", "sign_units", "norm", "seconds")
TITLES = {
    "transform": "w = z exp(t): the outer loss reads t",
    "log_l2": "penalties: all comes through training",
}


def describe(
    parameterisation: str,
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    seed: int,
    sizes: Sequence[int],
    steps: int,
    batch_size: int,
    momentum: float,
) -> tuple[hypergrad.Problem, list[tf.Tensor], dict[str, Any]]:
    """Returns the problem, the initial weights and the hyperparameters."""
    if parameterisation == "transform":

        def parts(weights: Any, hyper: Any) -> tuple[list[tf.Tensor], tf.Tensor]:
            seen = [z * tf.exp(t) for z, t in zip(weights, hyper["transform"], strict=True)]
            return seen, math.exp(-4) * tf.add_n([tf.reduce_sum(z**2) for z in weights])

        value = 0.0
    else:

        def parts(weights: Any, hyper: Any) -> tuple[list[tf.Tensor], tf.Tensor]:
            pairs = zip(weights, hyper["log_l2"], strict=True)
            return weights, tf.add_n([tf.reduce_sum(tf.exp(log) * w**2) for w, log in pairs])

        value = -8.0

    def train_loss(weights: Any, hyper: Any, step: tf.Tensor, batch: Any) -> tf.Tensor:
        del step
        seen, penalty = parts(weights, hyper)
        return mnist_slices.cross_entropy(seen, mnist_slices.Examples(*batch)) + penalty

    problem = hypergrad.Problem(
        train_loss,
        lambda weights, hyper: mnist_slices.cross_entropy(parts(weights, hyper)[0], valid),
        dynamics=hypergrad.Momentum(0.05, momentum, form="M1"),
        steps=steps,
        batches=hypergrad.Minibatches(tuple(train), batch_size, steps, seed=seed),
    )
    weights = mnist_slices.normal_weights(sizes, math.exp(-3), seed)
    hyper = {parameterisation: [tf.fill(leaf.shape, value) for leaf in weights]}
    return problem, weights, hyper


def flat(leaves: Any) -> np.ndarray:
    """Returns arrays as a single vector."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


def units(leaves: Any) -> np.ndarray:
    """Returns the mean over the outgoing weights of every input unit."""
    return flat([np.asarray(leaf).mean(1) for leaf in leaves if leaf.shape.rank == 2])


def compare(got: Any, exact: Any, direct: Any) -> dict[str, float]:
    """Compares an estimate with the exact gradient, with and without the direct term."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        size = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / size) if size else 0.0

    a, b, c = units(got), units(exact), units(direct)
    nonzero = b != 0
    return {
        "cosine_units": cosine(a, b),
        "cosine_weights": cosine(flat(got), flat(exact)),
        "cosine_through": cosine(a - c, b - c),
        "sign_units": float(np.mean(np.sign(a[nonzero]) == np.sign(b[nonzero]))),
        "norm": float(np.linalg.norm(a) / np.linalg.norm(b)),
    }


def run(
    parameterisation: str,
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    seed: int = 0,
    sizes: Sequence[int] = SIZES,
    steps: int = 2000,
    batch_size: int = 50,
    momentum: float = 0.95,
    lengths: Sequence[int] | None = None,
) -> dict[str, dict[Any, Any]]:
    """Compares all estimators with the exact hypergradient.

    Args:
      parameterisation: A name in `PARAMETERISATIONS`.
      train: Training examples.
      valid: Validation examples.
      seed: The seed of initial weights and batches.
      sizes: The sizes of the network's layers.
      steps: The number of training steps, T.
      batch_size: Examples per batch.
      momentum: The momentum of M1.
      lengths: The numbers of points or steps to draw curves for; None for T/100 to T.

    Returns:
      `estimators`, the `MEASURES` by name; and `lengths`, with the `cosine_units` of `drmad` and
      `truncated` for each.
    """
    problem, weights, hyper = describe(
        parameterisation, train, valid, seed, sizes, steps, batch_size, momentum
    )
    began = time.perf_counter()
    exact = hypergrad.reverse(problem, weights, hyper, storage="checkpoints", per_step=False)
    right = exact.hypergradient[parameterisation]
    seconds = time.perf_counter() - began
    direct = _direct_term(problem, exact.weights, hyper)[parameterisation]

    def drmad(**options: Any) -> Any:
        with warnings.catch_warnings():
            # The table shows that it diverges with many points.
            warnings.simplefilter("ignore", hypergrad.DrmadDivergedWarning)
            result = hypergrad.drmad(problem, weights, hyper, **options)
        return result.hypergradient[parameterisation]

    def truncated(window: int) -> Any:
        result = hypergrad.truncated(
            problem, weights, hyper, window=window, per_step=False, largest_growth=None
        )
        return result.hypergradient[parameterisation]

    few = max(1, steps // 10)
    commoner = float(np.sign(np.sum(np.sign(units(right)))))
    estimators: dict[str, Callable[[], Any]] = {
        "one sign for all": lambda: [tf.fill(leaf.shape, commoner) for leaf in right],
        "direct term alone": lambda: direct,
        "DrMAD, T/10 points, first batches": drmad,
        "DrMAD, T/10 points, strided": lambda: drmad(batches="strided"),
        "DrMAD, T points": lambda: drmad(points=steps),
        "truncated reverse, last T/10": lambda: truncated(few),
    }
    table = {"exact": compare(right, right, direct) | {"seconds": seconds}}
    for name, estimate in estimators.items():
        began = time.perf_counter()
        got = estimate()
        table[name] = compare(got, right, direct) | {"seconds": time.perf_counter() - began}
    if lengths is None:
        lengths = sorted({max(1, steps // part) for part in (100, 40, 20, 10, 5, 2, 1)})
    curves = {
        "drmad": [drmad(points=n, batches="strided") for n in lengths],
        "truncated": [truncated(n) for n in lengths],
    }
    return {
        "estimators": table,
        "lengths": {"lengths": list(lengths)}
        | {
            name: [compare(got, right, direct)["cosine_units"] for got in found]
            for name, found in curves.items()
        },
    }


def _direct_term(problem: hypergrad.Problem, weights: Any, hyper: Any) -> Any:
    """Returns the gradient of the validation loss with the weights held fixed."""
    with tf.GradientTape() as tape:
        tape.watch(hyper)
        loss = problem.outer_losses["valid_loss"](weights, hyper)
    return tape.gradient(loss, hyper, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def as_markdown(runs: dict[Any, Any]) -> str:
    """Returns tables of the means over seeds, and of the range of their unit cosines."""
    lines = []
    for parameterisation in PARAMETERISATIONS:
        tables = [tables[parameterisation]["estimators"] for tables in runs.values()]
        lines += [
            f"\n{parameterisation}, mean of {len(tables)} seeds\n",
            "| estimator | " + " | ".join(MEASURES) + " | cosine_units, least and most |",
        ]
        lines.append("|---" * (2 + len(MEASURES)) + "|")
        for name in tables[0]:
            means = [statistics.mean(table[name][m] for table in tables) for m in MEASURES]
            cosines = [table[name]["cosine_units"] for table in tables]
            cells = " | ".join(f"{mean:.3g}" for mean in means)
            lines.append(f"| {name} | {cells} | {min(cosines):.3f}, {max(cosines):.3f} |")
    return "\n".join(lines).strip()


def draw(runs: dict[Any, Any], path: Path) -> None:
    """Draws unit cosines against the number of points or steps, a thin line for each seed."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, parameterisation in zip(axes, PARAMETERISATIONS, strict=True):
        found = [run[parameterisation] for run in runs.values()]
        lengths = found[0]["lengths"]["lengths"]
        for name, label, color in [
            ("truncated", "truncated: the last steps", "tab:blue"),
            ("drmad", "DrMAD: points, strided", "tab:orange"),
        ]:
            curves = np.array([run["lengths"][name] for run in found])
            axis.plot(lengths, curves.T, color=color, alpha=0.25, linewidth=0.8)
            axis.plot(lengths, curves.mean(0), color=color, label=label)
        direct = [run["estimators"]["direct term alone"]["cosine_units"] for run in found]
        axis.axhline(
            statistics.mean(direct), color="gray", linestyle=":", label="direct term alone"
        )
        axis.set(title=TITLES[parameterisation], xlabel="points or steps", xscale="log")
    axes[0].set_ylabel("cosine with the exact one, by unit")
    axes[1].legend(fontsize=7)
    figure.savefig(path, bbox_inches="tight", dpi=150)
    plt.close(figure)


def main() -> None:
    """Runs all seeds, prints and draws."""
    train, valid = mnist_slices.load_slices(FLAGS.data_dir, [15_000, 5_000])
    folder = reporting.folder(FLAGS.output)
    runs = reporting.run_seeds(
        "drmad_fidelity",
        ["data_dir", "steps", "momentum"],
        lambda seed: {
            name: run(name, train, valid, seed, steps=FLAGS.steps, momentum=FLAGS.momentum)
            for name in PARAMETERISATIONS
        },
    )
    text = as_markdown(runs)
    (folder / "drmad_fidelity.md").write_text(text + "\n")
    print(text)
    draw(runs, folder / "drmad_fidelity.png")


define_flags = experiment_flags.definer("drmad_fidelity")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
