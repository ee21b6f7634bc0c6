"""Runs many random cases in separate processes, and continues where a run was stopped.

One record per case is appended to `records.jsonl`; the last record of a seed counts.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.random_cases.outcome import FAILED
from replay import read_json_lines

ROOT = Path(__file__).resolve().parents[2]
RECORDS = "records.jsonl"
Record = dict[str, Any]


def read(folder: Path) -> dict[int, Record]:
    """Returns the records of a folder by their seeds, without a line that a kill cut off."""
    records: dict[int, Record] = {}
    path = folder / RECORDS
    for record in read_json_lines(path).lines if path.exists() else []:
        if isinstance(record.get("seed"), int):
            records[record["seed"]] = record
    return records


def failed(record: Record) -> bool:
    """Whether something is wrong in any mode of a record."""
    return FAILED in record["modes"].values()


def run(
    kind: str,
    seeds: Sequence[int],
    folder: Path,
    *,
    again: Callable[[Record], bool] = lambda record: False,
    chunk: int = 40,
    jobs: int = 1,
    thorough: bool = False,
    timeout: float = 300.0,
) -> dict[int, Record]:
    """Checks the cases without a record in the folder.

    Args:
      kind: A package of `benchmarks.random_cases`.
      seeds: The seeds of the cases.
      folder: The folder of `records.jsonl`, which is continued.
      again: A condition on records whose cases are checked again.
      chunk: The number of cases per process.
      jobs: The number of parallel processes.
      thorough: The argument of `run_case`.
      timeout: The seconds after which a case has failed and its process is killed.

    Returns:
      The records of these seeds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = read(folder)
    path = folder / RECORDS
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")  # the line that a kill cut off stays alone
    open_seeds = [seed for seed in seeds if seed not in known or again(known[seed])]
    chunks = [open_seeds[i : i + chunk] for i in range(0, len(open_seeds), chunk)]
    progress = _Progress(len(open_seeds))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not chunks:
                    return
                mine = chunks.pop(0)
            for record in _checked(kind, "thorough" if thorough else "usual", mine, timeout):
                with lock:
                    known[record["seed"]] = record
                    with path.open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    progress.count(record)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {seed: known[seed] for seed in seeds if seed in known}


def _checked(kind: str, how: str, seeds: Sequence[int], timeout: float) -> Iterator[Record]:
    """Yields a record for each seed; if a process dies, a new one takes over the rest."""
    left = list(seeds)
    while left:
        with tempfile.TemporaryFile() as messages:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.random_cases.worker", kind, how]
                + [str(seed) for seed in left],
                cwd=ROOT,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=messages,
                bufsize=0,  # the selector does not see data that was read ahead
            )
            begun, why = None, "the process ended"
            try:
                for line in _lines(process, timeout):
                    if line is None:
                        why = f"no answer after {timeout:.0f} seconds"
                        break
                    answer = json.loads(line)
                    if "begin" in answer:
                        begun = answer["begin"]
                    else:
                        left.remove(answer["seed"])
                        begun = None
                        yield answer
            finally:
                process.kill()
                process.wait()
            if not left:
                return
            messages.seek(0, os.SEEK_END)
            messages.seek(max(0, messages.tell() - 2000))
            tail = messages.read().decode(errors="replace")
        if begun is None:
            raise RuntimeError(f"A worker for {kind!r} ended before its first case:\n{tail}")
        left.remove(begun)
        note = f"{why} (status {process.returncode}): {tail}"
        yield {
            "kind": kind,
            "seed": begun,
            "modes": {"case": FAILED},
            "features": [],
            "notes": [note],
        }


def _lines(process: subprocess.Popen, timeout: float) -> Iterator[bytes | None]:
    """Yields the lines that a process writes, and None if it is silent for too long."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout):
                yield None
                return
            line = process.stdout.readline()
            if not line:
                return
            yield line


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    for name, value in {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
    }.items():
        environment.setdefault(name, value)
    return environment


class _Progress:
    """A line on standard error with the number of cases done, failed and left."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._failed = total, 0, 0
        self._start = self._last = time.monotonic()

    def count(self, record: Record) -> None:
        self._done += 1
        self._failed += failed(record)
        now = time.monotonic()
        quiet = 2 if sys.stderr.isatty() else 60
        if now - self._last < quiet and self._done < self._total:
            return
        self._last = now
        each = (now - self._start) / self._done
        left = each * (self._total - self._done)
        print(
            f"{self._done} of {self._total} cases, {self._failed} failed, {each:.2f} s each, "
            f"{left / 60:.0f} minutes left",
            file=sys.stderr,
            flush=True,
        )
