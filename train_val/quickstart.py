"""Meta-trains a small MLHF and a MetaMuon on digits, then races them against other optimizers.

`scripts/quickstart.sh` runs it. Meta-training uses one part of scikit-learn's digits; the race
uses another, with fresh weights. Every rival is run over a grid of settings and takes part with the
best; MLHF is run once, with the learning rate that it was meta-trained with, and so is MetaMuon,
which has nothing to set.
"""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import quickstart_flags

    running.begin(__doc__, quickstart_flags.define_flags)

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import flags

import mlhf
from replay import PrioritizedReplay
from train_val import comparison
from train_val.cli.flags import quickstart_flags
from train_val.data import Batches, load
from train_val.problems.problem import Problem
from train_val.training.optimizers import weights_digest

FLAGS = flags.FLAGS
define_flags = quickstart_flags.define_flags

WIDTH = 32
BATCH = 128
CG_ITERATIONS = 4
LEARNING_RATE = 0.3
META_LEARNING_RATE = 0.03
META_STEPS = 1200
# The last quarter of meta-training uses a tenth of the learning rate.
SETTLING = 0.75
STEPS = 50
EVERY = 5
REPORT = (10, 25, 50)
SEEDS = (1, 2, 3)
# Updates of the controller of MetaMuon, from nothing.
CONTROLLER_UPDATES = 40
# The rivals and their grids; MLHF and MetaMuon are run as they were meta-trained.
RIVALS = (
    f"hf:title=Hessian-free:cg={CG_ITERATIONS}:lr=0.2/0.3/0.5/1:damping=1e-8/1e-7/1e-6/1e-5/1e-3/0.1,"
    "muon:lr=0.01/0.02/0.05/0.1/0.2/0.4:schedule=linear:title=Muon,"
    "momentum:lr=0.01/0.03/0.1/0.3/1/3,"
    "adam:lr=1e-3/3e-3/1e-2/3e-2/0.1/0.3,"
    "rmsprop:lr=3e-4/1e-3/3e-3/1e-2/3e-2/0.1"
)
LARGEST_GRID = 24
META_TRAINING, CONTROLLER = "meta_training", "controller"


def network(seed: int = 0) -> keras.Model:
    """Returns the network: 64 inputs, 32 tanh units, 10 outputs."""
    layers = keras.layers
    glorot = [keras.initializers.GlorotUniform(seed=10 * seed + i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(name="flatten"),
            layers.Dense(WIDTH, "tanh", name="hidden", kernel_initializer=glorot[0]),
            layers.Dense(10, name="output", kernel_initializer=glorot[1]),
        ],
        name="digits",
    )


def problem(part: str) -> Problem:
    """Returns the network on one part of the digits, `"meta_train"` or `"train"`."""
    images, test = load("digits", part=part), load("digits", part="test")
    batches = Batches(images, BATCH, seed=0)
    model = network()
    task = mlhf.Task(
        model,
        "softmax_cross_entropy",
        lambda seed: mlhf.get_parameters(network(seed)),
        lambda start: batches.dataset(start),
        name="digits",
    )
    return Problem("digits", model, images, test, task)


def record_paths(task: mlhf.Task, seeds: int = 3, steps: int = STEPS) -> PrioritizedReplay:
    """Returns snapshots along short Hessian-free runs, from which rollouts begin.

    Args:
      task: The task that is trained.
      seeds: The number of runs.
      steps: The number of steps of each run; every third is recorded.

    Returns:
      A replay in memory.
    """
    experience = PrioritizedReplay(seeds * steps)
    optimizer = mlhf.HessianFree(0.5, damping=0.03, cg_iterations=CG_ITERATIONS)
    for seed in range(seeds):
        parameters = task.initialize(100 + seed)
        state = optimizer.init(parameters)
        batches = iter(task.batches(1000 * (100 + seed)))
        for step in range(steps):
            if step % 3 == 0:
                values = {path: value.numpy() for path, value in parameters.items()}
                experience.add({"parameters": values, "model_state": ()})
            objective = task.objective(*next(batches))
            parameters, state, _, _ = optimizer.step(objective, parameters, state)
    return experience


def meta_train(folder: Path) -> mlhf.MetaHessianFree:
    """Meta-trains; continues an earlier run that was killed, and loads one that finished.

    Args:
      folder: The folder of the meta-training.

    Returns:
      The trained optimizer.
    """
    task = problem("meta_train").task
    optimizer = mlhf.MetaHessianFree(LEARNING_RATE, cg_iterations=CG_ITERATIONS)
    training = mlhf.meta_train(
        task,
        optimizer,
        META_STEPS,
        meta_lr=lambda step: META_LEARNING_RATE * (0.1 if step > SETTLING * META_STEPS else 1),
        keep_prob=0.5,
        model_dir=folder,
        save_steps=100,
        experience=record_paths(task),
    )
    return training.optimizer


def learn_controller(folder: Path) -> mlhf.MetaMuon:
    """Meta-trains a MetaMuon from nothing; continues an earlier run that was killed.

    Args:
      folder: The folder of the meta-training.

    Returns:
      The trained optimizer.
    """
    task = problem("meta_train").task
    optimizer = mlhf.MetaMuon(STEPS, weights="neutral")
    return mlhf.evolve_controller(task, optimizer, CONTROLLER_UPDATES, model_dir=folder).optimizer


def with_controller(entrant: comparison.Entrant, learned: mlhf.MetaMuon) -> comparison.Entrant:
    """Returns the entrant of a MetaMuon with the weights that were learned here."""
    weights = learned.weights
    identity = {**entrant.identity, "weights": weights_digest(weights)}

    def make(setting: Mapping[str, Any], steps: int) -> mlhf.MetaMuon:
        return mlhf.MetaMuon(steps, weights=weights)

    return dataclasses.replace(entrant, identity=identity, make=make)


def race(
    trained: mlhf.MetaHessianFree, controlled: mlhf.MetaMuon, folder: Path
) -> list[comparison.Score]:
    """Compares the optimizers; runs that an earlier call finished are not repeated.

    Args:
      trained: The meta-trained MLHF.
      controlled: The meta-trained MetaMuon.
      folder: The folder for results, which also has the weights of the meta-training.

    Returns:
      A score for each optimizer.
    """
    text = f"meta:lr={trained.learning_rate}:title=MLHF,metamuon:title=MetaMuon,{RIVALS}"
    entrants = comparison.parse_all(text, str(folder / META_TRAINING))
    entrants[1] = with_controller(entrants[1], controlled)
    return comparison.scoreboard(
        problem("train"),
        entrants,
        seeds=SEEDS,
        steps=STEPS,
        every=EVERY,
        tuning_seeds=SEEDS,
        largest=LARGEST_GRID,
        accuracy=False,
        cache=folder / "runs.jsonl",
    )


def main() -> None:
    """Reads the flags and runs the quickstart."""
    began = time.perf_counter()
    tf.config.threading.set_inter_op_parallelism_threads(2)
    folder = Path(FLAGS.model_dir)
    trained = meta_train(folder / META_TRAINING)
    results = race(trained, learn_controller(folder / CONTROLLER), folder)
    title = "Training a network on digits: mean of 3 seeds, loss over the whole training set"
    drawn = "Training a network on digits: median of 3 seeds, each at its best setting at step 50"
    comparison.scoreboard_picture(results, folder / "comparison.png", drawn)
    text = comparison.table(results, REPORT)
    (folder / "comparison.md").write_text(f"{title}\n\n{text}\n")
    print(f"\n{title}\n\n{text}\n")
    print(verdict(results))
    print(f"Picture: {folder / 'comparison.png'}; {time.perf_counter() - began:.0f} seconds.")
    sys.stdout.flush()


def verdict(scores: list[comparison.Score]) -> str:
    """Returns sentences that say which optimizer wins."""
    by_name = {score.entrant.title: score for score in scores}
    lines = []
    for step in REPORT:
        loss = {name: comparison.least_loss(score, step) for name, score in by_name.items()}
        first_order = min(loss[name] for name in ("momentum", "Adam", "RMSprop"))
        learned, plain = loss["MLHF"], loss["Hessian-free"]
        winner = "MLHF" if learned < plain else "tuned Hessian-free"
        lines.append(
            f"Step {step}: MLHF at {learned / first_order:.2g} times the best first-order loss; "
            f"between it and tuned Hessian-free, {winner} wins ({learned:.3g} against {plain:.3g})."
        )
        lines.append(
            f"Step {step}: MetaMuon at {loss['MetaMuon'] / first_order:.2g} times the best "
            f"first-order loss and at {loss['MetaMuon'] / loss['Muon']:.2g} times tuned Muon's."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    running.finish(main)
