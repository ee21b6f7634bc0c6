"""Measures the cost of hypergradients, compared with PyTorch's higher, betty, torchopt, hypertorch.

    python -m benchmarks.hypergradients --output=docs/results/hypergradients

See benchmarks/README.md. Each measure runs in its own process and gives a line of a file; the same
command continues where it was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tqdm

from benchmarks.hypergradients import report
from mlhf.runs import run_log

ROOT = Path(__file__).resolve().parents[2]
OURS = (
    "reverse, stored",
    "reverse, checkpoints",
    "reverse, disk",
    "reversible",
    "forward",
    "truncated",
    "implicit",
)
PEERS = ("autograd", "higher", "torchopt", "betty", "hypertorch")
WORK = ("framework", "method", "steps", "hidden", "columns", "dtype")
KEY = (*WORK, "threads", "rounds")
# Older lines lack these keys.
DEFAULTS = {"threads": 1, "rounds": 3}
NOT_INSTALLED = "No module named"
COLUMNS_STEPS = 100  # T in the figure of forward against reverse


def requests(steps: list[int], columns: list[int], hidden: list[int]) -> Iterator[dict[str, Any]]:
    """Yields the requests, quick ones first."""
    for count in sorted(steps):
        base = {"steps": count, "hidden": 50, "columns": 2, "dtype": "float32"}
        exact = "reverse, stored" if count <= 1000 else "reverse, checkpoints"
        yield {"framework": "tensorflow", "method": exact, **base, "dtype": "float64"}
        if count <= 1000:
            yield {"framework": "torch", "method": "autograd", **base, "dtype": "float64"}
        for method in OURS:
            yield {"framework": "tensorflow", "method": method, **base}
        for method in PEERS:
            yield {"framework": "torch", "method": method, **base}
    base = {"framework": "tensorflow", "steps": COLUMNS_STEPS, "dtype": "float32"}
    for method in ("forward", "reverse, stored"):
        for count in columns:
            yield {"method": method, **base, "hidden": 50, "columns": count}
        for width in hidden:
            yield {"method": method, **base, "hidden": width, "columns": 4}


def measure(request: dict[str, Any], gigabytes: float, seconds: float) -> dict[str, Any]:
    """Runs a measure in its own process.

    Args:
      request: The request.
      gigabytes: The memory limit of the process.
      seconds: The time limit of the process.

    Returns:
      The result of `worker.measure`, or `{"failed": why}`.
    """
    threads = str(request["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hypergradients.worker", json.dumps(request)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
        )
        began, failed = time.monotonic(), None
        while process.poll() is None and failed is None:
            time.sleep(0.05)
            if time.monotonic() - began > seconds:
                failed = f"over {seconds:.0f} s"
            elif _resident(process.pid) > 1e9 * gigabytes:
                failed = f"over {gigabytes:g} GB"
        if failed is not None:
            process.kill()
        answer = process.communicate()[0]
        if failed is not None:
            return {"failed": failed}
        if process.returncode:
            messages.seek(0)
            lines = [line for line in messages.read().splitlines() if line.strip()]
            return {"failed": lines[-1] if lines else f"ended with {process.returncode}"}
        return json.loads(answer)


def _resident(process: int) -> int:
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measures what is missing in the file, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--columns", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--hidden", type=int, nargs="*", default=[12, 50, 150, 260, 420])
    parser.add_argument("--methods", nargs="+", default=[*OURS, *PEERS])
    parser.add_argument("--rounds", type=int, default=DEFAULTS["rounds"])
    parser.add_argument("--threads", type=int, default=DEFAULTS["threads"])
    parser.add_argument(
        "--gigabytes", type=float, default=6.0, help="the memory limit of a process"
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="the time limit of a process")
    parser.add_argument("--output", type=Path, default=Path("runs/hypergradients_benchmark"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "benchmarks.jsonl"
    more = {"threads": options.threads, "rounds": options.rounds}
    done = {tuple(row[name] for name in KEY): row for row in read(path)}
    wanted = [
        {**request, **more}
        for request in requests(options.steps, options.columns, options.hidden)
        if request["method"] in options.methods
    ]
    for request in (bar := tqdm.tqdm(wanted)):
        bar.set_description(f"{request['method']}, T={request['steps']}")
        key = tuple(request[name] for name in KEY)
        if key in done:
            continue
        shorter = [
            row
            for row in done.values()
            if "failed" in row
            and row["steps"] <= request["steps"]
            and all(row[name] == request[name] for name in KEY if name != "steps")
        ]
        # Longer trainings fail too.
        found = (
            {"failed": shorter[0]["failed"]}
            if shorter
            else measure(request, options.gigabytes, options.seconds)
        )
        done[key] = {**request, **found}
        if is_kept(done[key]):
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[key]) + "\n")
    report.write(shown(list(done.values()), **more), options.output)


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the measures in a file, and ends a last line that a kill cut short."""
    if not path.exists():
        return []
    if not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    rows = [{**DEFAULTS, **row} for row in run_log.read(path)]
    # Other lines are measured again.
    return [row for row in rows if set(KEY) <= set(row) and is_kept(row)]


def is_kept(row: dict[str, Any]) -> bool:
    """Returns whether a measure is final; a missing library may be installed later."""
    return NOT_INSTALLED not in str(row.get("failed", ""))


def shown(rows: list[dict[str, Any]], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Selects the measures for a page: one per workload and method.

    Args:
      rows: All measures.
      threads: The number of threads; others are left out.
      rounds: The preferred number of rounds.

    Returns:
      The selected rows.
    """
    ordered = sorted(rows, key=lambda row: row["rounds"] == rounds)
    of_work = {
        tuple(row[name] for name in WORK): row for row in ordered if row["threads"] == threads
    }
    return list(of_work.values())


if __name__ == "__main__":
    main()
