"""A process that measures one method: `python -m benchmarks.hypergradients.worker '{...}'`.

It calls the method on a training of a few steps so that everything is loaded, then on the whole
training for its peak memory, then in turns with plain training in the same framework for the times.
What it found is a line of JSON on the standard output.

The peak is that of the first call: TensorFlow keeps what it has freed for later calls.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import peak_memory
from benchmarks.hypergradients.workload import Workload

FEWEST_STEPS = 4  # of a training that only loads what a library needs
ENOUGH_SECONDS = 20.0  # no further round begins after that


def main() -> None:
    """Measures."""
    request = json.loads(sys.argv[1])
    # What libraries print must not get into the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(measure(request)), file=answer, flush=True)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Returns what a request's method costs.

    Args:
      request: The fields of a `Workload`, and `framework`, `method`, `threads`, `rounds`.

    Returns:
      `hypergradient`; `megabytes` beyond what was in use before, and the same of
      a training of a few steps; `seconds`, `train_seconds` and the
      same in processor time, lists, in float32; `estimate` of ours.
    """
    module = importlib.import_module(f"benchmarks.hypergradients.in_{request['framework']}")
    module.set_threads(request["threads"])
    fields = [field.name for field in dataclasses.fields(Workload)]
    workload = Workload(**{name: request[name] for name in fields})
    name = request["method"]
    found: dict[str, Any] = {"version": module.VERSION, "parameters": workload.parameters}
    # Twice a few steps: what loading and tracing take does not count for T steps.
    few = dataclasses.replace(workload, steps=FEWEST_STEPS)
    for _ in range(2):
        _, found["megabytes_of_few_steps"] = _peak_of(module.Methods(few).methods()[name])
    methods = module.Methods(workload)
    found["hypergradient"], found["megabytes"] = _peak_of(methods.methods()[name])
    if request["framework"] == "tensorflow":
        cost = methods.estimate(name)
        found["estimate"] = [cost.memory / 1e6, cost.time / workload.steps]
    if request["dtype"] == "float64":  # for the digits alone
        return found
    run = methods.methods()[name]
    gc.collect()
    methods.train()
    timed: dict[str, list[tuple[float, float]]] = {"seconds": [], "train_seconds": []}
    began = time.monotonic()
    for _ in range(request["rounds"]):
        for kind, call in (("seconds", run), ("train_seconds", methods.train)):
            timed[kind].append(_timed(call))
            gc.collect()
        if time.monotonic() - began > ENOUGH_SECONDS:
            break
    for kind, times in timed.items():
        found[kind], found[f"processor_{kind}"] = (list(x) for x in zip(*times, strict=True))
    return found


def _peak_of(call: Callable[[], Any]) -> tuple[Any, float]:
    gc.collect()
    before = peak_memory.begin()
    return call(), peak_memory.end() - before


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    processor, clock = time.process_time(), time.perf_counter()
    call()
    return time.perf_counter() - clock, time.process_time() - processor


if __name__ == "__main__":
    main()
