"""Trains each task with CurvatureMuon, nothing tuned, and with Muon at several rates.

    python -m benchmarks.step_length --data_dir=$DATA --out=runs.jsonl [--tasks=mlp] [--seeds=1,2,3]

Every run is a line of the file, runs that are there are not repeated, and the table at the end is
of all of them: medians over the seeds of the loss, after the last step, on 2,000 examples that no
batch contains.
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

import mlhf
from benchmarks.step_length.tasks import TASKS, held_aside
from benchmarks.step_length.training import Training

RATES = (0.005, 0.01, 0.02, 0.03, 0.04, 0.08)
MEASURED = "measured"


def train(name: str, rule: str, seed: int, data_dir: str, made: dict[Any, Any]) -> dict[str, Any]:
    """Returns the record of one training.

    Args:
      name: The task's name.
      rule: `"measured"` for CurvatureMuon, or Muon's rate at the first step.
      seed: The seed of the initial weights and the batches.
      data_dir: The folder of CIFAR-10.
      made: The optimizers made so far, whose compiled steps serve all seeds and rates.
    """
    task = TASKS[name]
    shape = held_aside(task, data_dir)[0].shape[1:]
    kind = MEASURED if rule == MEASURED else "muon"
    if (name, kind) not in made:
        network = task.network(shape, task.outputs)
        # A training is compiled once, for all rates.
        rate, fall = tf.Variable(0.0), mlhf.Schedule(1.0, "linear", task.steps)
        muon = mlhf.Muon(lambda step: rate * tf.cast(fall(step), rate.dtype), 0.9)
        optimizer = mlhf.CurvatureMuon(task.steps) if rule == MEASURED else muon
        made[name, kind] = Training(task, network, data_dir, optimizer), rate
    training, rate = made[name, kind]
    if rule != MEASURED:
        rate.assign(float(rule))
    began = time.process_time()
    loss = training.run(task.network(shape, task.outputs, seed=seed), seed)[-1]
    seconds = round(time.process_time() - began, 1)
    return {"task": name, "rule": rule, "seed": seed, "loss": loss, "s": seconds}


def table(records: list[dict[str, Any]]) -> str:
    """Returns the medians as a table in Markdown."""
    lines = [
        "| task | measured | Muon, best rate | Muon, every rate |",
        "| --- | --- | --- | --- |",
    ]
    for name in TASKS:
        losses: dict[str, list[float]] = {}
        for record in records:
            if record["task"] == name and np.isfinite(record["loss"]):
                losses.setdefault(record["rule"], []).append(record["loss"])
        medians = {rule: statistics.median(values) for rule, values in losses.items()}
        measured = medians.pop(MEASURED, None)
        if measured is None or not medians:
            continue
        best = min(medians, key=lambda rule: medians[rule])
        every = ", ".join(f"{rule}: {medians[rule]:.4f}" for rule in sorted(medians, key=float))
        spread = "/".join(f"{value:.4f}" for value in sorted(losses[MEASURED]))
        lines.append(
            f"| {name} | {measured:.4f} ({spread}) | {medians[best]:.4f} ({best}) | {every} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="../shared/data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="", help="Part of the names of the tasks to run.")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    arguments = parser.parse_args()
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(record["task"], record["rule"], record["seed"]) for record in records}
    for name in TASKS:
        made: dict[Any, Any] = {}
        for rule in (MEASURED, *arguments.rates.split(",")) if arguments.tasks in name else ():
            for seed in map(int, arguments.seeds.split(",")):
                if (name, rule, seed) not in done:
                    records.append(train(name, rule, seed, arguments.data_dir, made))
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(records[-1]) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
