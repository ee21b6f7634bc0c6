"""Meta-trains the controller of the step by evolution strategies over whole trainings.

    python -m benchmarks.step_length.learn --data_dir=$DATA --out=FOLDER --hours=1 --jobs=2

A generation has a pair of trainings for each task, with weights θ + σε and θ - σε and the same
start and batches. Its loss is what is left, as a logarithm, of the loss that the rule has without a
controller on the same start and batches: three quarters after the last step, a quarter half-way.
The estimate and the step are those of `mlhf.evolve_controller`. Every generation is a line of
FOLDER/generations.jsonl; the same command goes on. Each update is mostly noise, so what is learned
is the average of the weights over the last updates, FOLDER/controller.npz. With `--begin` it begins
with the controller of a file.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlhf.meta_optimizer import controller_file
from mlhf.meta_optimizer.step_controller import ControllerWeights, neutral_weights
from mlhf.meta_training.strategy import Strategy
from replay import read_structure, write_structure

SEEDS, STATE, CONTROLLER = 8, "state.npz", "controller.npz"
# The average goes over all updates so far, and from then on over about as many.
_AVERAGED = 60
# A training that fails where the rule alone does not must show by how much: with bounds of 1, both
# sides of a pair were often equally bad, and nothing was learned from it.
_LARGEST = 4.0
_trainings: dict[int, Any] = {}
_neutral: dict[tuple[int, int], list[float]] = {}


def losses(number: int, seed: int, data_dir: str, weights: ControllerWeights) -> list[float]:
    """Returns the losses of a task half-way and at the end, in a worker's process."""
    from benchmarks.step_length.learning_tasks import LEARNING_TASKS
    from benchmarks.step_length.tasks import held_aside
    from benchmarks.step_length.training import Training
    from mlhf.meta_optimizer.meta_muon import MetaMuon

    task = LEARNING_TASKS[number]
    shape = held_aside(task, data_dir)[0].shape[1:]
    if number not in _trainings:
        network = task.network(shape, task.outputs)
        _trainings[number] = Training(
            task, network, data_dir, MetaMuon(task.steps, weights="neutral")
        )
    training = _trainings[number]
    training.optimizer.weights = weights
    scale = 2.0 ** ((seed % 3) - 1) if seed % 2 else 1.0
    start = task.network(shape, task.outputs, seed=seed)
    return training.run(start, seed, checks=2, scale=scale)


def relative(number: int, seed: int, data_dir: str, weights: ControllerWeights) -> float:
    """Returns the logarithm of what is left of the loss that the rule alone has."""
    if (number, seed) not in _neutral:
        _neutral[number, seed] = losses(number, seed, data_dir, neutral_weights())
    pairs = zip(losses(number, seed, data_dir, weights), _neutral[number, seed], strict=True)
    half, end = (math.log(new / old) if new > 0 else _LARGEST for new, old in pairs)
    value = 0.25 * half + 0.75 * end
    return float(np.clip(value, -_LARGEST, _LARGEST)) if math.isfinite(value) else _LARGEST


def pair(
    number: int, seed: int, data_dir: str, weights: tuple[ControllerWeights, ControllerWeights]
) -> tuple[float, float]:
    """Returns the losses of both sides of a pair."""
    return tuple(relative(number, seed, data_dir, side) for side in weights)  # type: ignore


def opened(folder: Path, learned: tuple[str, ...], begin: Path | None = None) -> Strategy:
    """Returns the strategy that a folder holds, or a new one.

    Args:
      folder: The folder.
      learned: The groups of weights that are learned.
      begin: The file whose weights a new one begins with; None for neutral ones.
    """
    weights = neutral_weights() if begin is None else controller_file.read(begin)
    strategy = Strategy(weights, learned)
    if (folder / STATE).exists():
        strategy.restore(read_structure(folder / STATE))
    return strategy


def averaged(
    average: ControllerWeights, weights: ControllerWeights, generation: int
) -> ControllerWeights:
    """Returns the average of the weights over the last updates, with those of a new one.

    Args:
      average: The average before.
      weights: The weights after the update.
      generation: The number of the update, from 1.
    """
    new = 1 / min(generation, _AVERAGED)
    pairs = zip(average, weights, strict=True)
    return ControllerWeights(*[old + np.float32(new) * (now - old) for old, now in pairs])


def table(records: list[dict[str, Any]], block: int = 12) -> str:
    """Returns, for blocks of generations, the mean change of the loss in percent, as Markdown.

    Args:
      records: The lines of generations.jsonl.
      block: The number of generations in a row of the table.

    Returns:
      The table; a change is that of trainings with perturbed weights, against the rule alone.
    """
    lines = ["| updates | mean change of the loss | tasks below the rule |", "| --- | --- | --- |"]
    for first in range(0, len(records), block):
        part = records[first : first + block]
        by_task = np.mean([record["by task"] for record in part], 0)
        change = math.expm1(float(by_task.mean()))
        below = int(np.sum(by_task < 0))
        ends = f"{part[0]['generation']} to {part[-1]['generation']}"
        lines.append(f"| {ends} | {change:+.1%} | {below} of {len(by_task)} |")
    return "\n".join(lines)


def main() -> None:
    """Goes on for some hours."""
    from benchmarks.step_length.learning_tasks import LEARNING_TASKS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="../shared/data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.3, help="Adam's, in units of σ.")
    parser.add_argument("--learned", default="lengths,momentum", help="Groups of weights.")
    parser.add_argument("--tasks", type=int, default=len(LEARNING_TASKS), help="The first so many.")
    parser.add_argument("--begin", type=Path, help="A file of weights to begin with.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    strategy = opened(arguments.out, tuple(arguments.learned.split(",")), arguments.begin)
    average = strategy.weights
    if strategy.generation:
        average = controller_file.read(arguments.out / CONTROLLER)
    context, end = multiprocessing.get_context("spawn"), time.time() + 3600 * arguments.hours
    # A task stays with a worker, which compiles it once.
    workers = [concurrent.futures.ProcessPoolExecutor(1, context) for _ in range(arguments.jobs)]
    tasks = arguments.tasks
    while time.time() < end:
        random, began = np.random.default_rng([17, strategy.generation]), time.time()
        noises = random.normal(size=[tasks, strategy.deviations.size])
        seeds = 100 + random.integers(SEEDS, size=tasks)
        runs = [
            workers[number % len(workers)].submit(
                pair, number, int(seeds[number]), arguments.data_dir, strategy.sides(noise)
            )
            for number, noise in enumerate(noises)
        ]
        results = np.array([run.result() for run in runs])
        gaps = results[:, 0] - results[:, 1]
        strategy.follow(strategy.estimate(noises, gaps), arguments.rate)
        write_structure(arguments.out / STATE, strategy.state())
        average = averaged(average, strategy.weights, strategy.generation)
        controller_file.write(arguments.out / CONTROLLER, average)
        values = results.mean(1)
        record = {
            "generation": strategy.generation,
            "mean": round(float(np.mean(values)), 5),
            "by task": [round(float(value), 4) for value in values],
            "gaps": [round(float(gap), 4) for gap in gaps],
            "s": round(time.time() - began, 1),
        }
        with (arguments.out / "generations.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    for worker in workers:
        worker.shutdown()
    lines = (arguments.out / "generations.jsonl").read_text().splitlines()
    print(table([json.loads(line) for line in lines]))


if __name__ == "__main__":
    main()
