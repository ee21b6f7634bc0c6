"""Trains each task with CurvatureMuon and MetaMuon, nothing tuned, and with Muon at several rates.

    python -m benchmarks.step_length --data_dir=$DATA --out=runs.jsonl [--tasks=mlp] [--seeds=1,2,3]

Every run is a line of the file, runs that are there are not repeated (those of another controller
than that of `--weights` are others), and the table at the end is of all of them: medians over the
seeds of the loss, after the last step, on 2,000 examples that no batch contains.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mlhf
from benchmarks.step_length.tasks import TASKS, held_aside
from benchmarks.step_length.training import Training

RATES = (0.005, 0.01, 0.02, 0.03, 0.04, 0.08)
MEASURED, LEARNED = "measured", "learned"
# Rules with a rate, besides Muon with a rate that falls, which is a number alone.
CONSTANT, ADAM = "constant", "adam"


def digest(weights: str | None) -> str:
    """Returns what tells controllers apart.

    Args:
      weights: The file of the controller's weights; None for those that ship.
    """
    arrays = mlhf.MetaMuon(1, weights=weights).weights
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:8]


def train(
    name: str, rule: str, seed: int, data_dir: str, made: dict[Any, Any], weights: str | None
) -> dict[str, Any]:
    """Returns the record of one training.

    Args:
      name: The task's name.
      rule: `"measured"` for CurvatureMuon, `"learned"` and a digest for MetaMuon, a number for Muon
        with this rate at the first step, or `"constant 0.02"` for Muon with one that stays and
        `"adam 0.003"` for Adam with one that falls.
      seed: The seed of the initial weights and the batches.
      data_dir: The folder of CIFAR-10.
      made: The optimizers made so far, whose compiled steps serve all seeds and rates.
      weights: The file of MetaMuon's weights; None for those that ship.
    """
    task = TASKS[name]
    shape = held_aside(task, data_dir)[0].shape[1:]
    kind = "muon" if rule[0].isdigit() else rule.split()[0]
    if (name, kind) not in made:
        network = task.network(shape, task.outputs)
        # A training is compiled once, for all rates.
        rate, fall = tf.Variable(0.0), mlhf.Schedule(1.0, "linear", task.steps)

        def falling(step: tf.Tensor) -> tf.Tensor:
            return rate * tf.cast(fall(step), rate.dtype)

        makers = {
            MEASURED: lambda: mlhf.CurvatureMuon(task.steps),
            LEARNED: lambda: mlhf.MetaMuon(task.steps, weights=weights),
            "muon": lambda: mlhf.Muon(falling, 0.9),
            CONSTANT: lambda: mlhf.Muon(lambda step: tf.identity(rate), 0.9),
            ADAM: lambda: _adam(falling),
        }
        made[name, kind] = Training(task, network, data_dir, makers[kind]()), rate
    training, rate = made[name, kind]
    if kind not in (MEASURED, LEARNED):
        rate.assign(float(rule.split()[-1]))
    began = time.process_time()
    loss = training.run(task.network(shape, task.outputs, seed=seed), seed)[-1]
    seconds = round(time.process_time() - began, 1)
    return {"task": name, "rule": rule, "seed": seed, "loss": loss, "s": seconds}


def _adam(rate: Any) -> mlhf.FirstOrder:
    optimizer = mlhf.FirstOrder(keras.optimizers.Adam)
    optimizer.learning_rate = rate
    return optimizer


def table(records: list[dict[str, Any]], learned: str) -> str:
    """Returns the medians as a table in Markdown.

    Args:
      records: The runs.
      learned: The rule of the controller that is shown.
    """
    lines = [
        "| task | measured | learned | Muon, best rate | Muon, every rate |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in TASKS:
        losses: dict[str, list[float]] = {}
        for record in records:
            if record["task"] == name and np.isfinite(record["loss"]):
                losses.setdefault(record["rule"], []).append(record["loss"])
        medians = {rule: statistics.median(values) for rule, values in losses.items()}
        chosen = [_with_spread(losses.get(rule)) for rule in (MEASURED, learned)]
        medians = {
            rule: value for rule, value in medians.items() if rule.replace(".", "").isdigit()
        }
        if MEASURED not in losses or not medians:
            continue
        best = min(medians, key=lambda rule: medians[rule])
        every = ", ".join(f"{rule}: {medians[rule]:.4f}" for rule in sorted(medians, key=float))
        lines.append(f"| {name} | {' | '.join(chosen)} | {medians[best]:.4f} ({best}) | {every} |")
    return "\n".join(lines)


def _with_spread(losses: list[float] | None) -> str:
    if not losses:
        return "not run"
    spread = "/".join(f"{value:.4f}" for value in sorted(losses))
    return f"{statistics.median(losses):.4f} ({spread})"


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="../shared/data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="", help="Part of the names of the tasks to run.")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    parser.add_argument("--weights", help="MetaMuon's, a file; by default those that ship.")
    arguments = parser.parse_args()
    learned = f"{LEARNED} {digest(arguments.weights)}"
    rules = [MEASURED, learned, *filter(None, arguments.rates.split(","))]
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(record["task"], record["rule"], record["seed"]) for record in records}
    for name in TASKS:
        made: dict[Any, Any] = {}
        for rule in rules if arguments.tasks in name else ():
            for seed in map(int, arguments.seeds.split(",")):
                if (name, rule, seed) not in done:
                    records.append(
                        train(name, rule, seed, arguments.data_dir, made, arguments.weights)
                    )
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(records[-1]) + "\n")
    print(table(records, learned))


if __name__ == "__main__":
    main()
