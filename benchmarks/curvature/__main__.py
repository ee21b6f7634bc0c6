"""Compares the speed of curvature products with TensorFlow's own methods, curvlinops and JAX.

    python -m benchmarks.curvature --output=docs/results/curvature

See benchmarks/README.md. Each framework runs in its own process, one at a time in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.curvature import report
from benchmarks.curvature.measures import GAUSS_NEWTON, GRADIENT, HESSIAN
from benchmarks.curvature.workloads import BATCHES, NETWORKS

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = ("tensorflow", "torch", "jax")
PRODUCTS = (GAUSS_NEWTON, HESSIAN)
# The measures with peak memory: a gradient, and a linearization with its first product.
MEMORY = ("own gradient 1", "custom_op Gv 1", "curvlinops Gv 1", "linearize Gv 1")


class Worker:
    """A process that measures with one framework.

    Attributes:
      framework: The framework's name.
      version: The framework's version, or None if it is not installed.
      missing: The reason why it cannot run, or None.
      measures: The measures, each `[name, method, product, count]`.
    """

    def __init__(self, framework: str, network: str, batch: int, threads: int) -> None:
        arguments = [framework, network, str(batch), str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.curvature.worker", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.framework = framework
        hello = self._read()
        self.version = hello.get("version")
        self.missing = hello.get("missing")
        self.measures = hello.get("measures", [])

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process of {self.framework} ended: see its messages above.")
        return json.loads(line)

    def close(self) -> None:
        """Lets the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(
    network: str,
    batch: int,
    *,
    frameworks: Sequence[str] = FRAMEWORKS,
    products: Sequence[str] = PRODUCTS,
    methods: Sequence[str] | None = None,
    repeats: int = 7,
    threads: int = 2,
    memory: bool = True,
) -> list[dict[str, Any]]:
    """Measures a network at one batch size.

    Args:
      network: One of `workloads.NETWORKS`.
      batch: The batch size.
      frameworks: The frameworks to compare, if they are installed.
      products: The products to measure besides the gradient.
      methods: The methods to measure; None for all.
      repeats: The number of runs of each measure.
      threads: The number of processors, and threads, per process.
      memory: Whether to measure peak memory, each in a fresh process.

    Returns:
      A record for each measure; with `missing` for frameworks that are not installed.
    """
    records: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        entrants = []
        for framework in frameworks:
            worker = Worker(framework, network, batch, threads)
            stack.callback(worker.close)
            common = {"network": network, "batch": batch, "framework": framework}
            if worker.missing:
                records.append({**common, "missing": worker.missing})
                continue
            for name, method, product, count in worker.measures:
                wanted = product in products and (methods is None or method in methods)
                if not (wanted or product == GRADIENT):
                    continue
                print(f"{network} {batch}: {framework}, {name}", file=sys.stderr, flush=True)
                first = worker.ask(do="prepare", name=name)
                record = {**common, "version": worker.version, "name": name, "method": method}
                record |= {"product": product, "count": count, **first}
                entrants.append((worker, {**record, "seconds": [], "cpu_seconds": []}))
        # In turn, so that other load affects all of them alike.
        for _ in range(repeats):
            for worker, record in _round_robin(entrants):
                run = worker.ask(do="run", name=record["name"])
                record["seconds"].append(round(run["seconds"], 6))
                record["cpu_seconds"].append(round(run["cpu_seconds"], 6))
        records += [record for _, record in entrants]
    for record in records if memory else []:
        if record.get("name") in MEMORY:
            fresh = Worker(record["framework"], network, batch, threads)
            rose = fresh.ask(do="prepare", name=record["name"], memory=True)["megabytes"]
            record["megabytes"] = round(rose, 1)
            fresh.close()
    return records


def _round_robin(entrants: list[tuple[Worker, dict]]) -> list[tuple[Worker, dict]]:
    """Returns the entrants in turn, one measure of each framework after the other."""
    queues: dict[str, list] = {}
    for entrant in entrants:
        queues.setdefault(entrant[0].framework, []).append(entrant)
    longest = max((len(queue) for queue in queues.values()), default=0)
    return [queue[i] for i in range(longest) for queue in queues.values() if i < len(queue)]


def machine(threads: int) -> dict[str, Any]:
    """Returns the properties of the machine that the figures depend on."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }


def main() -> None:
    """Reads the flags, measures, and writes records and table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curvature", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, help="default: 64, 256; transformer 64")
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    parser.add_argument("--products", nargs="+", choices=PRODUCTS, default=list(PRODUCTS))
    parser.add_argument("--methods", nargs="+", help="such as custom_op; default: all")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each measure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--output", type=Path, default=Path("runs/curvature_benchmark"))
    flags = parser.parse_args()
    if flags.repeats < 1 or flags.threads < 1 or min(flags.batches or [1]) < 1:
        parser.error("expected --repeats, --threads and --batches of at least 1")
    flags.output.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.curvature", *sys.argv[1:]])
    records = [{"command": command, **machine(flags.threads)}]
    for network in flags.networks:
        for batch in flags.batches or BATCHES[network]:
            records += compare(
                network,
                batch,
                frameworks=flags.frameworks,
                products=flags.products,
                methods=flags.methods,
                repeats=flags.repeats,
                threads=flags.threads,
                memory=not flags.no_memory,
            )
            lines = "".join(json.dumps(record) + "\n" for record in records)
            (flags.output / "measures.jsonl").write_text(lines)
            (flags.output / "README.md").write_text(report.page(records))
            print(report.section(network, batch, records), flush=True)


if __name__ == "__main__":
    main()
