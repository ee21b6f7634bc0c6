"""What each part of `mlhf.MetaMuon` adds: direction, horizon, length and controller.

    python -m benchmarks.step_length.ablation --data_dir=$DATA \
        --out=docs/results/step_length/runs.jsonl [--tasks=convnet]

Beside what the runs of `benchmarks.step_length` hold it trains with Adam and with Muon at constant
rates. Where the best rate of a task is at an edge of those tried, the next beyond it is tried.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks.step_length.__main__ import ADAM, CONSTANT, LEARNED, MEASURED, digest, train
from benchmarks.step_length.tasks import TASKS

SEEDS = (1, 2, 3)
FIRST_RATES = {ADAM: (1e-3, 3e-3, 1e-2), CONSTANT: (0.005, 0.01, 0.02), "": (0.01, 0.02, 0.04)}
NAMES = {
    ADAM: "Adam, falling",
    CONSTANT: "Muon, constant",
    "": "Muon, falling",
    MEASURED: "CurvatureMuon",
    LEARNED: "MetaMuon",
}


class Runs:
    """The runs of a file, which grows by those that are missing."""

    def __init__(self, path: Path, data_dir: str) -> None:
        """Reads the file, if there is one."""
        lines = path.read_text().splitlines() if path.exists() else []
        self._path, self._data_dir = path, data_dir
        self._losses = {
            (record["task"], record["rule"], record["seed"]): record["loss"]
            for record in map(json.loads, lines)
        }
        self._made: dict[str, dict[Any, Any]] = {}

    def losses(self, task: str, rule: str) -> list[float]:
        """Returns the losses of all seeds; those that are missing are made first."""
        for seed in SEEDS:
            if (task, rule, seed) not in self._losses:
                # The compiled steps of one task at a time are kept.
                self._made = {task: self._made.get(task, {})}
                record = train(task, rule, seed, self._data_dir, self._made[task], None)
                self._losses[task, rule, seed] = record["loss"]
                with self._path.open("a") as file:
                    file.write(json.dumps(record) + "\n")
        return [self._losses[task, rule, seed] for seed in SEEDS]

    def best(self, task: str, kind: str) -> tuple[float, list[float]]:
        """Returns the best rate of a kind of rule, no edge of the rates tried, and its losses."""
        found: dict[float, list[float]] = {}
        rates = set(FIRST_RATES[kind])
        while rates - found.keys():
            for rate in sorted(rates - found.keys()):
                found[rate] = self.losses(task, f"{kind} {rate:g}".strip())
            best = min(found, key=lambda rate: _median(found[rate]))
            if best == max(found):
                rates.add(_next(best, 1))
            elif best == min(found):
                rates.add(_next(best, -1))
        return best, found[best]


def _median(losses: list[float]) -> float:
    return statistics.median(loss if math.isfinite(loss) else math.inf for loss in losses)


def _next(rate: float, direction: int) -> float:
    """Returns twice or half a rate, to two digits."""
    return float(f"{rate * (2.0 if direction > 0 else 0.5):.2g}")


def table(runs: Runs, tasks: list[str]) -> str:
    """Returns the medians and the spreads as a table in Markdown."""
    lines = [f"| task | {' | '.join(NAMES.values())} |", "| --- |" + " --- |" * len(NAMES)]
    learned = f"{LEARNED} {digest(None)}"
    for task in tasks:
        cells = []
        for kind in NAMES:
            if kind in (MEASURED, LEARNED):
                losses, rate = runs.losses(task, learned if kind == LEARNED else kind), None
            else:
                rate, losses = runs.best(task, kind)
            finite = [loss for loss in losses if math.isfinite(loss)]
            if not finite:
                cells.append("not run")
                continue
            spread = f"{_median(losses):.4g} ±{(max(finite) - min(finite)) / 2:.2g}"
            cells.append(spread if rate is None else f"{spread} ({rate:g})")
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="../shared/data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="", help="Parts of the tasks' names, by slashes.")
    arguments = parser.parse_args()
    parts = arguments.tasks.split("/")
    tasks = [name for name in TASKS if any(part in name for part in parts)]
    print(table(Runs(arguments.out, arguments.data_dir), tasks))


if __name__ == "__main__":
    main()
