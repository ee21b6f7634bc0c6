"""Overfitting 50 validation images by a penalty for every weight: Neumann series against exact.

After Lorraine, Vicol and Duvenaud 2020 (arXiv 1911.02590), small: a network 784-50-10 with tanh is
trained on 50 MNIST images by momentum of 0.9 (Nesterov) at a rate of 0.1, and the logarithms of its
39,760 penalties, e⁻⁷ at first, follow the loss on 50 other images, by RMSprop at 0.01 after every
10 training steps, weights going on. The implicit hypergradient solves H q = ∂E/∂w by K terms of a
Neumann series whose step is the training's rate. Success is a validation error of 0.

At weights on the way the hypergradient of every K is compared with two exact solutions:

  Hessian       (H + δ) q = ∂E/∂w by conjugate gradients to a residual of 1e-4, δ the smallest of
                0, 1e-4, 3e-4, 1e-3, ... that makes them meet no direction of negative curvature;
                without it H has eigenvalues of both signs near zero, and no inverse worth having
  Gauss-Newton  the same for the Gauss-Newton matrix and the penalties, with the same δ

    python train_val/experiments/neumann_overfitting.py --data_dir=$DATA --seeds=0,1,2
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
        __doc__, experiment_flags.definer("neumann_overfitting"), experiment_flags.check_flags
    )

import statistics
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from mlhf.hypergrad import linear_solvers
from mlhf.runs.progress import ProgressBar
from train_val.cli.flags import experiment_flags
from train_val.experiments import mnist_slices, reporting

FLAGS = flags.FLAGS
SIZES, COUNT = (784, 50, 10), 50
TERMS, MORE_TERMS = (0, 1, 5, 20), (100, 1000)
RATE, OUTER_RATE, FIRST_LOG = 0.1, 0.01, -7.0
DAMPINGS = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
TOLERANCE = 1e-4


def make_problem(
    train: mnist_slices.Examples, valid: mnist_slices.Examples, steps: int
) -> hypergrad.Problem:
    """Returns training for some steps, with a penalty for every weight."""
    return hypergrad.Problem(
        lambda weights, hyper, step: (
            mnist_slices.cross_entropy(weights, train) + penalty(weights, hyper)
        ),
        lambda weights, hyper: mnist_slices.cross_entropy(weights, valid),
        dynamics=hypergrad.Momentum(RATE, 0.9, nesterov=True),
        steps=steps,
    )


def penalty(weights: Any, hyper: Any) -> tf.Tensor:
    """Returns Σ exp(l) w²."""
    pairs = zip(weights, hyper["log_l2"], strict=True)
    return tf.add_n([tf.reduce_sum(tf.exp(log) * leaf**2) for leaf, log in pairs])


def first_weights(sizes: Sequence[int], seed: int) -> list[tf.Tensor]:
    """Returns normal weights of variance 1 / inputs, and biases of zero."""
    normal = mnist_slices.normal_weights(sizes, 1.0, seed)
    return [
        leaf / float(leaf.shape[0]) ** 0.5 if leaf.shape.rank == 2 else tf.zeros_like(leaf)
        for leaf in normal
    ]


def learn(
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    test: mnist_slices.Examples,
    terms: int,
    seed: int = 0,
    sizes: Sequence[int] = SIZES,
    iterations: int = 300,
    steps: int = 10,
    keep: Sequence[int] = (),
) -> tuple[dict[str, list[float]], dict[int, Any]]:
    """Learns the penalties.

    Args:
      train: Training examples.
      valid: The examples that the penalties are learned from.
      test: Examples that are only measured on.
      terms: The number of terms of the series, K.
      seed: The seed of the initial weights.
      sizes: The sizes of the network's layers.
      iterations: Steps on the penalties.
      steps: Training steps before each of them; twenty times as many before the first.
      keep: Iterations whose weights and hyperparameters are returned.

    Returns:
      The curves `valid_loss`, `valid_error`, `train_error` and `test_error`, and a dictionary from
      the iterations to keep to (weights, hyperparameters).
    """
    problem = make_problem(train, valid, steps)
    solver = linear_solvers.Neumann(terms, step=RATE)
    weights = first_weights(sizes, seed)
    logs = [tf.Variable(tf.fill(leaf.shape, FIRST_LOG)) for leaf in weights]
    # Keras adds epsilon under the root: the default of 1e-7 swamps gradients of 1e-7.
    optimizer = keras.optimizers.RMSprop(OUTER_RATE, epsilon=1e-16)
    optimizer.build(logs)
    before = make_problem(train, valid, 20 * steps)
    weights = hypergrad.train(before, weights, read(logs)).weights
    curves: dict[str, list[float]] = {
        name: [] for name in ("valid_loss", "valid_error", "train_error", "test_error")
    }
    kept = {}
    for k in ProgressBar(range(iterations + 1), desc=f"seed {seed}, K = {terms}", mininterval=5):
        hyper = read(logs)
        result = hypergrad.implicit(problem, weights, hyper, solver=solver)
        weights = result.weights
        curves["valid_loss"].append(float(result.valid_loss))
        for name, examples in [("valid", valid), ("train", train), ("test", test)]:
            error = mnist_slices.error_rate(weights, examples)
            curves[f"{name}_error"].append(float(error))
        if k in keep:
            kept[k] = weights, hyper
        optimizer.apply(result.hypergradient["log_l2"], logs)
    return curves, kept


def read(variables: Sequence[tf.Variable]) -> dict[str, Any]:
    """Returns the current hyperparameters."""
    return {"log_l2": [tf.identity(variable) for variable in variables]}


def compare(
    train: mnist_slices.Examples, valid: mnist_slices.Examples, weights: Any, hyper: Any
) -> dict[str, Any]:
    """Compares the hypergradients of all K with exact ones, at given weights.

    Args:
      train: Training examples.
      valid: Validation examples.
      weights: The weights.
      hyper: The penalties.

    Returns:
      `damping` (δ), `residual` and `iterations` of the exact solution; `cosines`, for "K = 0" and
      so on and for "Gauss-Newton", the cosines with the solutions of the Hessian and of the
      Gauss-Newton matrix; None if the series diverges and is refused.
    """
    problem = make_problem(train, valid, 1)

    def solve(solver: Any) -> tuple[np.ndarray, dict[str, Any]]:
        found = hypergrad.implicit(problem, weights, hyper, solver=solver, train_first=False)
        leaves = found.hypergradient["log_l2"]
        return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64), found.info

    def exact() -> tuple[float, np.ndarray, dict[str, Any]]:
        for damping in DAMPINGS:
            try:
                return damping, *solve(
                    linear_solvers.ConjugateGradient(3000, TOLERANCE, damping=damping)
                )
            except linear_solvers.LinearSolveError:
                continue
        raise RuntimeError(f"The Hessian is indefinite even with {DAMPINGS[-1]} added.")

    damping, hessian, info = exact()
    gauss_newton, _ = solve(
        linear_solvers.GaussNewton(
            lambda weights, hyper, step: (
                mnist_slices.tanh_network(weights, train.images),
                train.labels,
            ),
            damping=damping,
            regularizer=penalty,
            max_iterations=3000,
            tolerance=TOLERANCE,
        )
    )
    found: dict[str, Any] = {"Gauss-Newton": gauss_newton}
    for terms in (*TERMS, *MORE_TERMS):
        try:
            found[f"K = {terms}"] = solve(linear_solvers.Neumann(terms, step=RATE))[0]
        except linear_solvers.LinearSolveError:
            found[f"K = {terms}"] = None
    return {
        "damping": damping,
        "residual": info["residual"],
        "iterations": info["iterations"],
        "cosines": {
            name: [None if g is None else cosine(g, right) for right in (hessian, gauss_newton)]
            for name, g in found.items()
        },
    }


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the cosine of two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def run(
    train: mnist_slices.Examples,
    valid: mnist_slices.Examples,
    test: mnist_slices.Examples,
    seed: int = 0,
    sizes: Sequence[int] = SIZES,
    iterations: int = 300,
    **options: Any,
) -> dict[str, Any]:
    """Learns with every K, and compares at weights on the path of the longest series.

    Args:
      train: Training examples.
      valid: Validation examples.
      test: Test examples.
      seed: The seed of the initial weights.
      sizes: The sizes of the network's layers.
      iterations: Steps on the penalties.
      **options: Arguments of `learn`.

    Returns:
      `curves` by K, with `first_perfect`, the first step with a validation error of 0 or None; and
      `compared`, the results of `compare` by step.
    """
    keep = [round(iterations * part) for part in (0, 1 / 3, 2 / 3, 1)]
    curves: dict[str, Any] = {}
    for terms in TERMS:
        found, kept = learn(
            train, valid, test, terms, seed, sizes, iterations, keep=keep, **options
        )
        perfect = [k for k, error in enumerate(found["valid_error"]) if error == 0]
        curves[str(terms)] = found | {"first_perfect": perfect[0] if perfect else None}
    return {
        "curves": curves,
        "compared": {str(k): compare(train, valid, *point) for k, point in kept.items()},
    }


def as_markdown(runs: dict[Any, Any]) -> str:
    """Returns a table of the results for every K, and a table of the cosines."""
    seeds = list(runs)
    lines = [
        f"Means of seeds {', '.join(map(str, seeds))}\n",
        "| K | steps to a validation error of 0, by seed | validation error, first | last "
        "| validation loss, last | test error, first | last |",
        "|---" * 7 + "|",
    ]
    for terms in map(str, TERMS):
        found = [run["curves"][terms] for run in runs.values()]
        perfect = ", ".join(str(curves["first_perfect"]) for curves in found)
        cells = [
            statistics.mean(curves[name][i] for curves in found)
            for name, i in [
                ("valid_error", 0),
                ("valid_error", -1),
                ("valid_loss", -1),
                ("test_error", 0),
                ("test_error", -1),
            ]
        ]
        lines.append(f"| {terms} | {perfect} | " + " | ".join(f"{x:.3g}" for x in cells) + " |")
    steps = list(next(iter(runs.values()))["compared"])
    for which, name in enumerate(("Hessian", "Gauss-Newton matrix")):
        lines += [
            f"\nCosine with the exact solution for the {name}, mean over seeds\n",
            "| hypergradient | " + " | ".join(f"step {k}" for k in steps) + " |",
            "|---" * (1 + len(steps)) + "|",
        ]
        for row in next(iter(runs.values()))["compared"][steps[0]]["cosines"]:
            cells = []
            for k in steps:
                values = [run["compared"][k]["cosines"][row][which] for run in runs.values()]
                taken = [value for value in values if value is not None]
                text = f"{statistics.mean(taken):.3f}" if taken else "refused"
                if 0 < len(taken) < len(values):
                    text += f" ({len(values) - len(taken)} refused)"
                cells.append(text)
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    cells = [
        ", ".join(f"{run['compared'][k]['damping']:g}" for run in runs.values()) for k in steps
    ]
    lines.append("| δ by seed | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(runs: dict[Any, Any], path: Path) -> None:
    """Draws validation and test errors, means over seeds; and the cosines against K."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for color, terms in zip(("tab:blue", "tab:orange", "tab:green", "tab:red"), TERMS, strict=True):
        for name, style in [("valid_error", "-"), ("test_error", "--")]:
            mean = np.mean([run["curves"][str(terms)][name] for run in runs.values()], 0)
            label = f"K = {terms}" if name == "valid_error" else None
            left.plot(mean, style, color=color, lw=1, label=label)
    left.set(xlabel="steps on the penalties", ylabel="validation error; dashed: test error")
    left.legend(fontsize=7)
    lengths = (*TERMS, *MORE_TERMS)
    for k in next(iter(runs.values()))["compared"]:
        cosines = [
            [
                np.nan if value is None else value
                for value in (run["compared"][k]["cosines"][f"K = {n}"][0] for n in lengths)
            ]
            for run in runs.values()
        ]
        right.plot(range(len(lengths)), np.mean(cosines, 0), "o-", ms=3, lw=1, label=f"step {k}")
    right.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    right.set(xlabel="terms K", ylabel="cosine with the exact solution")
    right.legend(fontsize=7)
    figure.savefig(path, bbox_inches="tight", dpi=150)
    plt.close(figure)


def draw_examples(images: mnist_slices.Examples, seed: int) -> list[mnist_slices.Examples]:
    """Returns 50 training and 50 validation examples, drawn without replacement."""
    chosen = np.random.default_rng(seed).permutation(len(images.labels))[: 2 * COUNT]
    return [
        mnist_slices.Examples(tf.gather(images.images, part), tf.gather(images.labels, part))
        for part in (chosen[:COUNT], chosen[COUNT:])
    ]


def main() -> None:
    """Runs all seeds, prints and draws."""
    images, test = mnist_slices.load_slices(FLAGS.data_dir, [60_000, 10_000])
    folder = reporting.folder(FLAGS.output)

    def run_seed(seed: int) -> dict[str, Any]:
        train, valid = draw_examples(images, seed)
        return run(train, valid, test, seed, iterations=FLAGS.iterations)

    runs = reporting.run_seeds("neumann_overfitting", ["data_dir", "iterations"], run_seed)
    text = as_markdown(runs)
    (folder / "neumann_overfitting.md").write_text(text + "\n")
    print(text)
    draw(runs, folder / "neumann_overfitting.png")


define_flags = experiment_flags.definer("neumann_overfitting")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
