"""Errors of least-squares methods and their rivals on an equation, at equal processor seconds.

    python -m benchmarks.equal_seconds --task=poisson --seconds=60 --budgets=15
        --output=docs/results/equal_seconds/poisson

Everything runs on one core, in float64; seconds are those of the processor after compilation and
without the measurements. Methods with a rate are tuned on the first seed, over four rates at the
beginning of a cosine that ends with the seconds, anew for each budget, since a schedule that ends
later is behind before. Each run is a line of runs.jsonl, and runs that are there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

# One core, before TensorFlow is imported: processor seconds are those of a quiet clock then.
for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.equal_seconds import methods, report  # noqa: E402
from benchmarks.equal_seconds.clock import Clock  # noqa: E402
from train_val.task_families import registry  # noqa: E402


class Runs:
    """The runs of one task, kept in a file."""

    def __init__(self, task: str, path: Path, sample: int | None) -> None:
        """Reads what is there.

        Args:
          task: The task, as for `train_val.task_families.registry.make`.
          path: The file, one run in a line.
          sample: As for `methods.run`.
        """
        self._sample = sample
        self._path = path
        self._problem = registry.make(task)
        self._loops: dict[str, methods.FirstOrderLoop] = {}
        self.records: list[dict[str, Any]] = []
        if path.exists():
            self.records = [json.loads(line) for line in path.read_text().splitlines()]

    def run(self, name: str, rate: float | None, budget: float, seed: int) -> None:
        """Trains once, unless it is there."""
        key = {"method": name, "rate": rate, "budget": budget, "seed": seed}
        if any(key.items() <= record.items() for record in self.records):
            return
        clock = Clock(budget, self._problem.accuracy)
        methods.run(name, self._problem, seed, clock, rate, self._loops, self._sample)
        points = [[round(time, 3), float(f"{error:.4g}")] for time, error in clock.points]
        record = {**key, "points": points}
        self.records.append(record)
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        shown = "" if rate is None else f" {rate:g}"
        print(f"{name}{shown}, seed {seed}, {budget:g} s: {report.end(record):.2e}", flush=True)


def main() -> None:
    """Reads the command line, runs what is missing, and writes table and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="poisson")
    parser.add_argument("--methods", default=",".join(methods.METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--budgets", default="", help="shorter seconds that rates are tuned for")
    parser.add_argument("--times", default="5,15,30,60", help="the columns of the table")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--sample", type=int, help="the points of a step, for methods that can take some of them"
    )
    given = parser.parse_args()
    names = given.methods.split(",")
    unknown = sorted(set(names) - set(methods.METHODS))
    if unknown:
        parser.error(f"Expected methods among {', '.join(methods.METHODS)}, got {unknown}.")
    given.output.mkdir(parents=True, exist_ok=True)
    runs = Runs(given.task, given.output / "runs.jsonl", given.sample)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    budgets = [float(b) for b in given.budgets.split(",") if b] + [given.seconds]
    for name in names:
        if name in methods.RATES:
            for budget in budgets:
                for rate in methods.RATES[name]:
                    runs.run(name, rate, budget, seeds[0])
                best = report.best_rate(runs.records, name, budget)
                for seed in seeds[1:]:
                    runs.run(name, best, budget, seed)
        else:
            for seed in seeds:
                runs.run(name, None, given.seconds, seed)
    times = [float(t) for t in given.times.split(",")]
    shares = (report.shares(runs.records, times, ours) for ours in report.OURS[:2])
    text = "\n\n".join([report.table(runs.records, times), *filter(None, shares)]) + "\n"
    command = shlex.join(["python", "-m", "benchmarks.equal_seconds", *sys.argv[1:]])
    (given.output / "table.md").write_text(f"`{command}`\n\n{text}")
    report.picture(runs.records, given.output / "errors.svg", given.task)
    print(text)


if __name__ == "__main__":
    main()
