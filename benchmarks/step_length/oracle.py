"""What each choice around CurvatureMuon's rule could give at most, task by task: the bound.

    python -m benchmarks.step_length.oracle --data_dir=$DATA --out=oracle.jsonl [--tasks=mlp/mnist]

A learned controller may change the length as a function of t/T, the momentum, the lengths of
tensors and how much of the momentum is orthogonalized. Each choice is tried alone with the seeds 1
to 3; the best of each are then tried together, added one by one while they help. The choices found
so are judged by seeds that chose nothing, 11 to 13: the bound for what a controller can gain on
this task, which knows the task.

Every run is a line of the file, runs that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.step_length.tasks import TASKS, held_aside
from benchmarks.step_length.training import Training
from mlhf.optimizers.curvature_muon import Choices, CurvatureMuon
from mlhf.optimizers.settings import Number

NEUTRAL = {
    "rise": 0.0,
    "fall": 1.0,
    "early": 1.0,
    "late": 1.0,
    "mu": 0.9,
    "first": 1.0,
    "last": 1.0,
    "vectors": 1.0,
    "plain": 0.0,
}
TRIED: dict[str, tuple[float, ...]] = {
    "rise": (0.1, 0.3),
    "fall": (0.5, 1.5, 2.0),
    "early": (0.6, 1.6),
    "late": (0.7, 1.4),
    "mu": (0.8, 0.95),
    "first": (0.5, 2.0),
    "last": (0.25, 0.5, 2.0),
    "vectors": (0.3, 3.0),
    "plain": (0.2, 0.5),
}
CHOOSING, JUDGING = (1, 2, 3), (11, 12, 13)


class Steered(CurvatureMuon):
    """CurvatureMuon with choices that stay what they are set to."""

    rise, fall, early, late = (Number(at_least=0) for _ in range(4))
    mu, first, last, vectors, plain = (Number(at_least=0) for _ in range(5))

    def __init__(self, horizon: int) -> None:
        super().__init__(horizon)
        for name, value in NEUTRAL.items():
            setattr(self, name, value)

    def _step(
        self, objective: Any, parameters: Any, state: Any, numbers: dict[str, tf.Tensor]
    ) -> tuple[Any, ...]:
        choices = self._choices(parameters, state, numbers)
        return self._advance(objective, parameters, state, numbers, lambda seen: choices)[:4]

    def _choices(self, parameters: Any, state: Any, numbers: dict[str, tf.Tensor]) -> Choices:
        leaves = tf.nest.flatten(parameters)
        chosen = {name: tf.cast(numbers[name], leaves[0].dtype) for name in NEUTRAL}
        done = tf.cast(state.step, leaves[0].dtype) / self.horizon
        one = tf.ones_like(done)
        multiple = tf.pow(tf.maximum(1 - done, 1e-6), chosen["fall"] - 1)
        multiple *= tf.minimum(one, (done + 1 / self.horizon) / tf.maximum(chosen["rise"], 1e-6))
        # From the one to the other along the training, in logarithms.
        multiple *= tf.pow(chosen["early"], 1 - done) * tf.pow(chosen["late"], done)
        forms = self._rule(parameters).forms
        kernels = [place for place, form in enumerate(forms) if form is not None]
        lengths = []
        for place, form in enumerate(forms):
            length = chosen["vectors"] if form is None else one
            if place == kernels[0]:
                length = chosen["first"]
            if place == kernels[-1]:
                length = chosen["last"]
            lengths.append(length)
        return Choices(multiple, chosen["mu"], lengths, [chosen["plain"]] * len(forms))


class Runs:
    """The runs of a task, those of the file and new ones."""

    def __init__(self, name: str, data_dir: str, out: Path) -> None:
        self.name, self.task, self._data_dir, self._out = name, TASKS[name], data_dir, out
        self._inputs, _ = held_aside(self.task, data_dir)
        self._training: Training | None = None
        lines = out.read_text().splitlines() if out.exists() else []
        records = [json.loads(line) for line in lines]
        self._losses = {
            self._key(record["choices"], record["seed"]): record["loss"]
            for record in records
            if record["task"] == name
        }

    def loss(self, choices: dict[str, float], seed: int) -> float:
        """Returns the loss on what was held aside, after the last step; infinity if not finite."""
        key = self._key(choices, seed)
        if key not in self._losses:
            began = time.process_time()
            loss = self._train(choices, seed)
            self._losses[key] = loss if np.isfinite(loss) else float("inf")
            record = {"task": self.name, "choices": choices, "seed": seed}
            record |= {"loss": self._losses[key], "s": round(time.process_time() - began, 1)}
            with self._out.open("a") as file:
                file.write(json.dumps(record) + "\n")
        return self._losses[key]

    def mean(self, choices: dict[str, float], seeds: tuple[int, ...]) -> float:
        """Returns the mean of the losses over seeds."""
        return statistics.mean(self.loss(choices, seed) for seed in seeds)

    @staticmethod
    def _key(choices: dict[str, float], seed: int) -> tuple[Any, ...]:
        return (*sorted(choices.items()), seed)

    def _train(self, choices: dict[str, float], seed: int) -> float:
        if self._training is None:
            network = self.task.network(self._inputs.shape[1:], self.task.outputs)
            self._training = Training(self.task, network, self._data_dir, Steered(self.task.steps))
        for name, value in {**NEUTRAL, **choices}.items():
            setattr(self._training.optimizer, name, value)
        start = self.task.network(self._inputs.shape[1:], self.task.outputs, seed=seed)
        return self._training.run(start, seed)[-1]


def bound(runs: Runs) -> str:
    """Returns a row: what the choices give alone and together, and on seeds that chose nothing."""
    neutral = runs.mean({}, CHOOSING)
    alone = {
        name: {value: runs.mean({name: value}, CHOOSING) for value in values}
        for name, values in TRIED.items()
    }
    best = {name: min(values, key=lambda value: values[value]) for name, values in alone.items()}
    chosen: dict[str, float] = {}
    least = neutral
    for name in sorted(best, key=lambda name: alone[name][best[name]]):
        loss = runs.mean({**chosen, name: best[name]}, CHOOSING)
        if loss < least:
            chosen[name], least = best[name], loss
    before, after = runs.mean({}, JUDGING), runs.mean(chosen, JUDGING)
    helps = {name: alone[name][best[name]] / neutral - 1 for name in best}
    shown = sorted((name for name in helps if helps[name] < -0.002), key=lambda name: helps[name])
    return (
        f"| {runs.name} | {neutral:.4f} | "
        + (", ".join(f"{name} {best[name]:g}: {helps[name]:+.1%}" for name in shown) or "nothing")
        + f" | {', '.join(f'{name} {value:g}' for name, value in chosen.items()) or 'nothing'} | "
        f"{least / neutral - 1:+.1%} | {before:.4f} | {after:.4f} | {after / before - 1:+.1%} |"
    )


def averages(tasks: list[Runs]) -> str:
    """Returns what each change alone does to the loss, its mean over the tasks."""
    lines = ["| change | mean over tasks | least | most |", "| --- | --- | --- | --- |"]
    for name, values in TRIED.items():
        for value in values:
            changes = [
                runs.mean({name: value}, CHOOSING) / runs.mean({}, CHOOSING) - 1 for runs in tasks
            ]
            mean = statistics.mean(changes)
            lines.append(
                f"| {name} {value:g} | {mean:+.1%} | {min(changes):+.1%} | {max(changes):+.1%} |"
            )
    return "\n".join(lines)


HEADER = """| task | the rule | alone | together | gain | the rule, judged | judged | gain |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="../shared/data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="", help="Parts of names of tasks, between slashes.")
    arguments = parser.parse_args()
    chosen = arguments.tasks.split("/")
    names = [name for name in TASKS if any(part in name for part in chosen)]
    tasks = [Runs(name, arguments.data_dir, arguments.out) for name in names]
    print(HEADER)
    for runs in tasks:
        print(bound(runs), flush=True)
    print("\n" + averages(tasks))


if __name__ == "__main__":
    main()
