"""Meta-trains the controller of the step by evolution strategies over whole trainings.

    python -m benchmarks.step_length.learn --data_dir=$DATA --out=FOLDER --hours=1 --jobs=2

A generation has a pair of trainings for each task, with weights θ + σε and θ - σε and the same
start and batches. Its loss is what is left, as a logarithm, of the loss that the rule has without a
controller on the same start and batches: three quarters after the last step, a quarter half-way.
Adam follows the estimate of the gradient (Salimans et al. 2017). Every generation is a line of
FOLDER/generations.jsonl and the weights are in FOLDER/weights.npz; the same command goes on.
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

from mlhf.meta_optimizer.step_controller import ControllerWeights, neutral_weights

# Of what each group of weights is perturbed by.
DEVIATIONS = {"lengths": 0.1, "momentum": 0.1, "outputs": 0.1}
SEEDS = 8
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
    half, end = (math.log(new / old) if new > 0 else 1.0 for new, old in pairs)
    value = 0.25 * half + 0.75 * end
    return float(np.clip(value, -1.0, 1.0)) if math.isfinite(value) else 1.0


def pair(
    number: int, seed: int, data_dir: str, weights: tuple[ControllerWeights, ControllerWeights]
) -> tuple[float, float]:
    """Returns the losses of both sides of a pair."""
    return tuple(relative(number, seed, data_dir, side) for side in weights)  # type: ignore


class Learning:
    """The state of a meta-training: weights and Adam's averages."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.names, self._folder = names, folder
        self.weights = neutral_weights()
        size = self.flat(self.weights).size
        self.generation, self._m, self._v = 0, np.zeros(size), np.zeros(size)
        self._spread: np.ndarray | None = None
        file = folder / "weights.npz"
        if file.exists():
            with np.load(file) as saved:
                self.weights = ControllerWeights(
                    *[saved[name] for name in ControllerWeights._fields]
                )
                self.generation = int(saved["generation"])
                if saved["m"].size == size:
                    self._m, self._v = saved["m"], saved["v"]
                if "spread" in saved.files:
                    self._spread = saved["spread"]

    def flat(self, weights: ControllerWeights) -> np.ndarray:
        """Returns the weights that are learned as one vector."""
        return np.concatenate([getattr(weights, name).ravel() for name in self.names])

    def moved(self, by: np.ndarray) -> ControllerWeights:
        """Returns the weights with a vector added to those that are learned."""
        new, first = {}, 0
        for name in self.names:
            value = getattr(self.weights, name)
            new[name] = value + by[first : first + value.size].reshape(value.shape).astype("f")
            first += value.size
        return self.weights._replace(**new)

    def deviations(self) -> np.ndarray:
        """Returns σ for each weight that is learned."""
        return np.concatenate(
            [
                np.full(getattr(self.weights, name).size, DEVIATIONS.get(name, 0.03))
                for name in self.names
            ]
        )

    def shaped(self, gaps: np.ndarray) -> np.ndarray:
        """Returns the gaps in units of each task's own, an average over generations, to 2 of them.

        What is left of a loss near zero varies by a hundred times what is left of another.
        """
        now = np.maximum(np.minimum(np.abs(gaps), 1.0), 1e-4)
        self._spread = now if self._spread is None else 0.9 * self._spread + 0.1 * now
        return np.clip(gaps / self._spread, -2.0, 2.0)

    def follow(self, gradient: np.ndarray, rate: float) -> None:
        """Takes Adam's step against an estimate of the gradient in units of σ, and saves."""
        self.generation += 1
        self._m = 0.9 * self._m + 0.1 * gradient
        self._v = 0.98 * self._v + 0.02 * gradient**2
        m = self._m / (1 - 0.9**self.generation)
        v = self._v / (1 - 0.98**self.generation)
        self.weights = self.moved(-rate * self.deviations() * m / (np.sqrt(v) + 1e-8))
        file = self._folder / "weights.tmp.npz"
        adam = {"generation": self.generation, "m": self._m, "v": self._v}
        np.savez(file, **self.weights._asdict(), **adam, spread=self._spread)
        file.replace(self._folder / "weights.npz")


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
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    learning = Learning(arguments.out, tuple(arguments.learned.split(",")))
    context, end = multiprocessing.get_context("spawn"), time.time() + 3600 * arguments.hours
    # A task stays with a worker, which compiles it once.
    workers = [concurrent.futures.ProcessPoolExecutor(1, context) for _ in range(arguments.jobs)]
    sigma = learning.deviations()
    while time.time() < end:
        random, began = np.random.default_rng([17, learning.generation]), time.time()
        runs = []
        for number in range(len(LEARNING_TASKS)):
            noise = random.normal(size=sigma.size)
            sides = learning.moved(sigma * noise), learning.moved(-sigma * noise)
            seed = 100 + int(random.integers(SEEDS))
            worker = workers[number % len(workers)]
            runs.append((noise, worker.submit(pair, number, seed, arguments.data_dir, sides)))
        results = [(noise, run.result()) for noise, run in runs]
        gaps = learning.shaped(np.array([up - down for _, (up, down) in results]))
        gradient = np.mean(
            [gap / 2 * noise for gap, (noise, _) in zip(gaps, results, strict=True)], 0
        )
        learning.follow(gradient, arguments.rate)
        values = [(up + down) / 2 for _, (up, down) in results]
        record = {
            "generation": learning.generation,
            "mean": round(float(np.mean(values)), 5),
            "by task": [round(value, 4) for value in values],
            "gaps": [round(up - down, 4) for _, (up, down) in results],
            "s": round(time.time() - began, 1),
        }
        with (arguments.out / "generations.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    for worker in workers:
        worker.shutdown()


if __name__ == "__main__":
    main()
