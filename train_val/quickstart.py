"""The main job on embedded data: meta-train a small MLHF on digits, then race it.

`scripts/quickstart.sh` runs it. Meta-training sees one part of scikit-learn's digits; the race, on
fresh weights, another. Every rival is run over a grid of settings and takes part with its best;
MLHF is run once, with the learning rate that it was meta-trained with.
"""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import quickstart_flags

    running.begin(__doc__, quickstart_flags.define_flags)

import sys
import time
from pathlib import Path

import keras
import tensorflow as tf
from absl import flags

import mlhf
from mlhf.runs.progress import ProgressBar
from replay import PrioritizedReplay
from train_val import comparison
from train_val.cli.flags import quickstart_flags
from train_val.data import Batches, load
from train_val.problems.image_problems import Problem

FLAGS = flags.FLAGS
define_flags = quickstart_flags.define_flags

WIDTH = 32
BATCH = 128
CG_ITERATIONS = 4
LEARNING_RATE = 0.3
META_LEARNING_RATE = 0.03
META_STEPS = 1200
# The last quarter of meta-training goes on with a tenth of its learning rate.
SETTLING = 0.75
STEPS = 50
EVERY = 5
REPORT = (10, 25, 50)
SEEDS = (1, 2, 3)


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
    """Returns snapshots along short Hessian-free runs, for rollouts to begin from.

    Args:
      task: What is trained.
      seeds: Runs.
      steps: Of each; every third is kept.

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
    """Meta-trains, or loads what an earlier run has finished; continues what was killed.

    Args:
      folder: Where the meta-training is kept.

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


def contenders(trained: mlhf.MetaHessianFree) -> list[comparison.Contender]:
    """Returns who takes part: MLHF as it was trained, the others over grids."""

    def tuned(optimizer, grid):
        """One optimizer for the whole grid, so that it is traced once."""

        def with_rate(rate):
            optimizer.learning_rate = rate
            return optimizer

        return with_rate, grid

    hessian_free = mlhf.HessianFree(cg_iterations=CG_ITERATIONS)

    def set_up(setting):
        hessian_free.learning_rate, hessian_free.damping = setting
        return hessian_free

    first_order = {
        "momentum": (
            keras.optimizers.SGD(0.1, momentum=0.9),
            [0.01, 0.03, 0.1, 0.3, 1.0, 3.0],
        ),
        "Adam": (keras.optimizers.Adam(), [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3]),
        "RMSprop": (keras.optimizers.RMSprop(), [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1]),
    }
    dampings, rates = (1e-8, 1e-7, 1e-6, 1e-5, 1e-3, 0.1), (0.2, 0.3, 0.5, 1.0)
    grid = [(rate, damping) for rate in rates for damping in dampings]
    return [
        comparison.Contender(
            "MLHF",
            lambda rate: trained,
            [trained.learning_rate],
            comparison.weights_digest(trained.weights),
        ),
        comparison.Contender("Hessian-free", set_up, grid),
        *[
            comparison.Contender(name, *tuned(mlhf.FirstOrder(optimizer), rates))
            for name, (optimizer, rates) in first_order.items()
        ],
    ]


def race(trained: mlhf.MetaHessianFree, folder: Path) -> list[comparison.Result]:
    """Compares; runs that an earlier call has done are not done again.

    Args:
      trained: The meta-trained optimizer.
      folder: Where results go.

    Returns:
      A result for each contender.
    """
    entrants = contenders(trained)
    runs = sum(len(entrant.grid) * len(SEEDS) for entrant in entrants)
    with ProgressBar(total=runs, unit="run", desc="comparison") as bar:

        def count(name):
            bar.set_description(name, refresh=False)
            bar.update()

        return comparison.compare(
            problem("train"),
            entrants,
            seeds=SEEDS,
            steps=STEPS,
            every=EVERY,
            report=REPORT,
            on_run=count,
            cache=folder / "runs.jsonl",
        )


def main() -> None:
    """Reads the flags and runs the quickstart."""
    began = time.perf_counter()
    tf.config.threading.set_inter_op_parallelism_threads(2)
    folder = Path(FLAGS.model_dir)
    trained = meta_train(folder / "meta_training")
    results = race(trained, folder)
    title = "Training a network on digits: mean of 3 seeds, loss over the whole training set"
    drawn = "Training a network on digits: median of 3 seeds, each at its best setting at step 50"
    comparison.picture(results, folder / "comparison.png", drawn)
    text = comparison.table(results, REPORT)
    (folder / "comparison.md").write_text(f"{title}\n\n{text}\n")
    print(f"\n{title}\n\n{text}\n")
    print(verdict(results))
    print(f"Picture: {folder / 'comparison.png'}; {time.perf_counter() - began:.0f} seconds.")
    sys.stdout.flush()


def verdict(results: list[comparison.Result]) -> str:
    """Returns who wins, in words."""
    by_name = {result.name: result for result in results}
    lines = []
    for step in REPORT:
        first_order = min(by_name[name].best[step] for name in ("momentum", "Adam", "RMSprop"))
        learned, plain = by_name["MLHF"].best[step], by_name["Hessian-free"].best[step]
        winner = "MLHF" if learned < plain else "tuned Hessian-free"
        lines.append(
            f"Step {step}: MLHF at {learned / first_order:.2g} times the best first-order loss; "
            f"between it and tuned Hessian-free, {winner} wins ({learned:.3g} against {plain:.3g})."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    running.finish(main)
