"""Bytes that a step sends, beside the formula: `python -m benchmarks.distribution`.

Each optimizer takes a few steps on several processes of this machine; each process counts the
bytes that it sends over TCP. The formula is that of a ring, 2 (W - 1)/W · 4 P for each of the
gradient and the products, and for K-FAC once more with the entries of the factors for P.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

OPTIMIZERS = ("adam", "hessian_free", "martens", "meta", "kfac")
ROOT = Path(__file__).resolve().parents[2]


def cluster(workers: int) -> list[dict[str, str]]:
    """Returns the environment of each process of a cluster on this machine."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("localhost", 0))
        addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    configurations = [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        for index in range(workers)
    ]
    return [{**environment, "TF_CONFIG": json.dumps(c)} for c in configurations]


def measure(optimizer: str, workers: int) -> list[dict[str, Any]]:
    """Returns what each process measured.

    Args:
      optimizer: One of `OPTIMIZERS`.
      workers: The number of processes.

    Raises:
      RuntimeError: If a process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{index}.json" for index in range(workers)]
        command = [sys.executable, "-m", "benchmarks.distribution.worker"]
        processes = [
            subprocess.Popen([*command, str(file), optimizer], cwd=ROOT, env=environment)
            for file, environment in zip(files, cluster(workers), strict=True)
        ]
        if any([process.wait() for process in processes]):
            raise RuntimeError(f"A process with {optimizer} failed.")
        return [json.loads(file.read_text()) for file in files]


def row(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns a line of the table: means over processes and medians over steps."""
    first = measured[0]
    workers, size = first["workers"], first["parameters"]
    sent, expected = [], []
    for place in range(len(first["steps"])):
        steps = [one["steps"][place] for one in measured]
        sent.append(statistics.mean(step["bytes"] for step in steps))
        vectors = 1 + steps[0]["products"]
        expected.append(2 * (workers - 1) / workers * 4 * (size * vectors + first["factors"]))
    seconds = statistics.median(step["seconds"] for step in first["steps"])
    return {
        "optimizer": first["optimizer"],
        "workers": workers,
        "parameters": size,
        "products": statistics.median(step["products"] for step in first["steps"]),
        "bytes": round(statistics.mean(sent)),
        "formula": round(statistics.mean(expected)),
        "ratio": round(statistics.mean(sent) / statistics.mean(expected), 4),
        "seconds": round(seconds, 4),
    }


def main() -> None:
    """Prints a line for each optimizer and number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS, choices=OPTIMIZERS)
    parser.add_argument("--output", type=Path, help="a file of JSON lines to add to")
    flags = parser.parse_args()
    for workers in flags.workers:
        for optimizer in flags.optimizers:
            line = json.dumps(row(measure(optimizer, workers)))
            print(line, flush=True)
            if flags.output is not None:
                with flags.output.open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
