"""Learns the hyperparameters of a training: `python train_val/tune_hyperparameters.py`."""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import tuning_flags

    running.begin(__doc__, tuning_flags.define_flags, tuning_flags.check_flags)

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from mlhf.hypergrad import linear_solvers, plots, projections
from train_val.cli.exit_statuses import DivergedError
from train_val.cli.flags import tuning_flags
from train_val.problems import hyperparameters
from train_val.training import run_settings

FLAGS = flags.FLAGS
define_flags, check_flags = tuning_flags.define_flags, tuning_flags.check_flags

OUTER_OPTIMIZERS = {
    name.lower(): kind
    for name in ("Adagrad", "Adam", "AdamW", "Adamax", "Lion", "Nadam", "RMSprop", "SGD")
    for kind in [getattr(keras.optimizers, name)]
}
SOLVERS: dict[str, Any] = {
    "cg": linear_solvers.ConjugateGradient,
    "fixed_point": linear_solvers.FixedPoint,
    "gauss_newton": None,  # made with the network
    "neumann": linear_solvers.Neumann,
    "normal_equations": linear_solvers.NormalEquations,
    "nystrom": linear_solvers.Nystrom,
}
# Forward mode carries a copy of the weights for each number.
MOST_COLUMNS = 2000
# The flags that a run must share with the run that continues it.
_SHARED = (
    *("method", "hyperparameters", "start", "dynamics", "problem", "data", "train_examples"),
    *("valid_examples", "batch_size", "lr", "momentum", "steps", "outer_optimizer", "outer_lr"),
    *("truncation", "online", "points", "solver", "damping", "sharing", "sign", "projection"),
    "seed",
)
# Errors of the library about a training that a user can do something about.
_TROUBLE = (
    hypergrad.DivergedError,
    hypergrad.NotDeterministicError,
    linear_solvers.LinearSolveError,
    TypeError,
)


def main() -> None:
    """Reads the flags, learns, draws and prints the result."""
    try:
        tune()
    except _TROUBLE as error:
        raise ValueError(" ".join(str(error).split())) from error


def tune() -> hypergrad.HyperOptimizer:
    """Runs the outer loop that the flags describe.

    Returns:
      The outer loop, at its end.

    Raises:
      ValueError: If flags make no sense together.
      CheckpointError: If the folder is another run's.
    """
    method = FLAGS.method
    names = FLAGS.hyperparameters or _default_names(method, FLAGS.dynamics)
    tuning = hyperparameters.Tuning(
        names,
        network=FLAGS.problem.lower(),
        data=FLAGS.data,
        data_dir=FLAGS.data_dir,
        dynamics=hyperparameters.make_dynamics(FLAGS.dynamics, FLAGS.lr, FLAGS.momentum),
        steps=FLAGS.steps,
        batch_size=FLAGS.batch_size,
        train_examples=FLAGS.train_examples,
        valid_examples=FLAGS.valid_examples,
        start=tuning_flags.numbers("start", FLAGS.start),
        seed=FLAGS.seed,
    )
    folder = Path(FLAGS.model_dir or f"./tune_{FLAGS.problem}_{method}".lower())
    arguments: dict[str, Any] = {
        "method": method,
        "outer_optimizer": outer_optimizers(tuning),
        "projections": tuning.projections(_projections(FLAGS.projection, tuning)),
        "process": _process(tuning),
        "options": options(tuning),
        "seed": FLAGS.seed,
        "folder": folder,
    }
    return _tune_in(folder, tuning, arguments)


def _tune_in(
    folder: Path, tuning: hyperparameters.Tuning, arguments: dict[str, Any]
) -> hypergrad.HyperOptimizer:
    run_settings.check(folder, _settings())
    with hypergrad.HyperOptimizer(
        tuning.problem, tuning.weights, tuning.start, **arguments
    ) as outer:
        run_settings.write(folder, _settings())
        if FLAGS.estimate:
            print(hypergrad.estimate(tuning.problem, tuning.weights(FLAGS.seed), tuning.start))
        outer.run(FLAGS.max_steps, progress=True)
        for path in draw(outer, tuning, folder):
            print(f"Drawn: {path}")
        print(report(outer, tuning))
        if outer.records and all(record["skipped"] for record in outer.records):
            raise DivergedError("Every training diverged: try a smaller --lr.")
    return outer


def outer_optimizers(tuning: hyperparameters.Tuning) -> dict[str, Any]:
    """Returns a Keras optimizer for each hyperparameter, each with its own learning rate."""
    rates = tuning_flags.numbers("outer_lr", FLAGS.outer_lr, alone=True, at_least=0)
    everywhere = rates.pop("", None)
    unknown = set(rates) - set(tuning.start)
    if unknown:
        raise ValueError(
            f"Expected outer_lr of {', '.join(tuning.start)}, got one of {sorted(unknown)}."
        )
    kind = OUTER_OPTIMIZERS[FLAGS.outer_optimizer.lower()]
    return {
        name: kind(rates.get(name, tuning.rate(name) if everywhere is None else everywhere))
        for name in tuning.start
    }


def options(tuning: hyperparameters.Tuning) -> dict[str, Any]:
    """Returns the options that the flags set for the method alone."""
    method = FLAGS.method
    if method in ("forward", "rtho") and tuning.numbers() > MOST_COLUMNS:
        raise ValueError(
            f"Expected at most {MOST_COLUMNS:,} numbers to learn by method={method}, which carries "
            f"a copy of the weights for each, got {tuning.numbers():,}. Use method=reverse."
        )
    if method == "reverse":
        return {"storage": FLAGS.storage}
    if method == "truncated":
        return {"window": FLAGS.truncation, "online": FLAGS.online}
    if method == "rtho":
        return {"every": FLAGS.truncation}
    if method == "drmad":
        return {"points": FLAGS.points}
    if method == "implicit":
        if FLAGS.solver == "gauss_newton":
            solver: Any = tuning.gauss_newton(FLAGS.damping)
        elif FLAGS.solver == "nystrom":
            solver = linear_solvers.Nystrom(rho=FLAGS.damping)
        else:
            damping = FLAGS.damping if FLAGS["damping"].present else 0.0
            solver = SOLVERS[FLAGS.solver](damping=damping)
        # Batches depend on the step: the optimum is that of several batches.
        return {"solver": solver, "loss_steps": min(20, FLAGS.steps)}
    return {}


def draw(
    outer: hypergrad.HyperOptimizer, tuning: hyperparameters.Tuning, folder: Path
) -> list[Path]:
    """Draws the course of the outer loop, learned schedules and learned images.

    Args:
      outer: The outer loop, at its end.
      tuning: The hyperparameters that were learned.
      folder: The folder for the pictures.

    Returns:
      The pictures' paths.
    """
    drawn = []
    if outer.records:
        plots.draw_curves(outer.records, folder / "curves.png")
        drawn.append(folder / "curves.png")
    fine = {
        name.name: np.asarray(outer.hyperparameters[name.name])
        for name in tuning.names
        if name.granularity in ("step", "layer", "step+layer")
    }
    if fine:
        before = {name: np.asarray(tuning.start[name]) for name in fine}
        path = folder / "schedules.png"
        plots.draw_schedules(fine, path, layers=tuning.layers, before=before)
        drawn.append(path)
    shape = tuning.train.image_shape
    if "images" in tuning.start:
        path = folder / "images.png"
        titles = [str(label) for label in tuning.train.labels]
        plots.draw_images(outer.hyperparameters["images"], path, titles=titles)
        drawn.append(path)
    for name in tuning.by_weight():
        value = outer.hyperparameters[name]
        first = [leaf for leaf in tf.nest.flatten(value) if leaf.shape[0] == np.prod(shape)]
        if first and shape[-1] == 1 and first[0].shape.rank == 2:
            path = folder / f"{name}.png"
            units = np.reshape(np.transpose(first[0]), [-1, *shape])
            plots.draw_images(units, path, titles=[f"unit {i + 1}" for i in range(len(units))])
            drawn.append(path)
    return drawn


def report(outer: hypergrad.HyperOptimizer, tuning: hyperparameters.Tuning) -> str:
    """Returns the outcome as a few lines of text."""
    done = [record for record in outer.records if not record["skipped"]]
    if not done:
        return f"{outer.step} outer steps; none of them counted."
    first, last = (float(record["valid_loss"]) for record in (done[0], done[-1]))
    lines = [f"{outer.step} outer steps: validation loss {first:.4f} at first, {last:.4f} at last."]
    skipped = len(outer.records) - len(done)
    if skipped:
        lines.append(f"{skipped} of them diverged and were skipped. Try a smaller lr or outer_lr.")
    if outer.result is not None:
        accuracy = tuning.network.accuracy(outer.result.weights)
        lines.append(f"Test accuracy of the last training: {accuracy:.2%}.")
        info = outer.result.info
        if "residual" in info:
            verdict = "" if info["converged"] else " Not converged: take it with care."
            lines.append(
                "Last hypergradient: relative residual of its linear system "
                f"{info['residual']:.2g}; norm of the gradient after training "
                f"{info['gradient_norm']:.2g}, {info['relative_gradient']:.2g} of the first."
                f"{verdict}"
            )
        if "momentum" in info:
            used = np.unique(
                np.concatenate([np.ravel(m) for m in tf.nest.flatten(info["momentum"])])
            )
            text = f"{used[0]:.8g}" if len(used) == 1 else f"{used[0]:.8g} to {used[-1]:.8g}"
            lines.append(f"Momentum as `reversible` rounds it to multiples of 1/65536: {text}.")
    for name, value in outer.hyperparameters.items():
        leaves = np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(value)])
        if len(leaves) == 1:
            lines.append(f"{name}: {float(leaves[0]):.6g}")
        else:
            lines.append(
                f"{name}: {len(leaves):,} numbers from {leaves.min():.4g} to {leaves.max():.4g}, "
                f"mean {leaves.mean():.4g}"
            )
    return "\n".join(lines)


def _default_names(method: str, dynamics: str) -> list[str]:
    if method == "implicit":
        return ["l2"]
    own = {"adam": ["beta1", "beta2"], "gd": [], "backtracking": []}.get(dynamics, ["momentum"])
    return ["learning_rate", *own, "l2"]


def _projections(
    texts: Sequence[str], tuning: hyperparameters.Tuning
) -> dict[str, projections.Projection]:
    found = {}
    for text in texts:
        name, _, rest = text.partition("=")
        kind, *numbers = rest.split(":")
        if name not in tuning.start or kind not in hyperparameters.PROJECTIONS:
            raise ValueError(
                "Expected projection as name=kind with a name among "
                f"{', '.join(tuning.start)} and a kind among "
                f"{', '.join(hyperparameters.PROJECTIONS)}, got {text!r}."
            )
        try:
            found[name] = hyperparameters.PROJECTIONS[kind](*map(float, numbers))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Expected the numbers that {kind} needs in projection={text}: {error}"
            ) from None
    return found


def _process(tuning: hyperparameters.Tuning) -> Any:
    names = tuning.by_weight()
    if FLAGS.sharing is None:
        return None
    if not names:
        raise ValueError(
            "Expected sharing with a hyperparameter that has a value for every weight, such as "
            f"l2:weight, got {', '.join(tuning.start)}."
        )

    def process(gradient: dict[str, Any]) -> dict[str, Any]:
        shared = {
            name: hypergrad.share(gradient[name], FLAGS.sharing, sign=FLAGS.sign) for name in names
        }
        return {**gradient, **shared}

    return process


def _settings() -> dict[str, Any]:
    return {name: FLAGS[name].value for name in _SHARED}


if __name__ == "__main__":
    running.finish(main)
