"""A process that measures one method: `python -m benchmarks.hypergradients.worker '{...}'`.

It calls the method on a training of a few steps to load everything, then on the whole training for
its peak memory, then alternating with plain training in the same framework for the times. The
result is a line of JSON on the standard output.

The peak is that of the first call: TensorFlow reuses freed memory in later calls.
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

FEWEST_STEPS = 4  # steps of the training that only loads everything
ENOUGH_SECONDS = 20.0  # no further round begins after that


def main() -> None:
    """Measures."""
    request = json.loads(sys.argv[1])
    # Output of libraries must not get into the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(measure(request)), file=answer, flush=True)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Measures the cost of a method.

    Args:
      request: The fields of a `Workload`, and `framework`, `method`, `threads`, `rounds`.

    Returns:
      `hypergradient`; `megabytes` beyond the memory in use before, and `megabytes_of_few_steps`
      for a training of a few steps; in float32 also the lists `seconds`, `train_seconds` and
      the same in processor time; for our methods `estimate`.
    """
    module = importlib.import_module(f"benchmarks.hypergradients.in_{request['framework']}")
    module.set_threads(request["threads"])
    fields = [field.name for field in dataclasses.fields(Workload)]
    workload = Workload(**{name: request[name] for name in fields})
    name = request["method"]
    found: dict[str, Any] = {"version": module.VERSION, "parameters": workload.parameters}
    # Twice a few steps, so that loading and tracing do not count for T steps.
    few = dataclasses.replace(workload, steps=FEWEST_STEPS)
    for _ in range(2):
        _, found["megabytes_of_few_steps"] = _peak_of(module.Methods(few).methods()[name])
    methods = module.Methods(workload)
    found["hypergradient"], found["megabytes"] = _peak_of(methods.methods()[name])
    if request["framework"] == "tensorflow":
        cost = methods.estimate(name)
        found["estimate"] = [cost.memory / 1e6, cost.time / workload.steps]
    if request["dtype"] == "float64":  # only for its digits
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
