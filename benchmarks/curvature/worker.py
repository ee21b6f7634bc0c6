"""A process that measures with one framework, asked over a pipe.

    python -m benchmarks.curvature.worker FRAMEWORK NETWORK BATCH THREADS

answers each line of JSON on its standard input with one on its standard output:

- `{"do": "prepare", "name": ...}`: traces and runs a measure once; seconds of both, the length
  of the result, and the relative error against the measure that it approximates. With
  `"memory": true` also how far the memory in use rose in a run, after a run on a batch of 2 and a
  start of XLA's compiler, which takes more than many a product, once in a process.
- `{"do": "run", "name": ...}`: its seconds by the wall clock and of processor time.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

from benchmarks import peak_memory
from benchmarks.curvature.workloads import Workload


def main() -> None:
    """Answers until the input ends."""
    framework, network, batch, threads = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        module = importlib.import_module(f"benchmarks.curvature.in_{framework}")
    except ImportError as error:
        answer(missing=str(error))
        return
    module.set_threads(int(threads))
    found = {m.name: m for m in module.measures(Workload(network, int(batch)))}
    answer(
        version=module.VERSION,
        measures=[[m.name, m.method, m.product, m.count] for m in found.values()],
    )
    calls, results = {}, {}
    references = {measure.reference for measure in found.values()}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["name"]
        if request["do"] == "prepare":
            more = {}
            if request.get("memory"):
                small = {m.name: m for m in module.measures(Workload(network, 2))}
                small[name].trace()()
                getattr(module, "start_compiler", lambda: None)()
            start = time.perf_counter()
            calls[name] = found[name].trace()
            traced = time.perf_counter()
            before = peak_memory.begin()
            began = time.perf_counter()
            result = calls[name]()
            ended = time.perf_counter()
            if request.get("memory"):
                more["megabytes"] = peak_memory.end() - before
            measure = found[name]
            if name in references:
                results[name] = result
            if measure.reference in results:
                exact = results[measure.reference]
                more["error"] = measure.distance(result, exact) / measure.length(exact)
            answer(
                trace_seconds=traced - start,
                first_call_seconds=ended - began,
                length=measure.length(result),
                **more,
            )
            del result
        elif request["do"] == "run":
            cpu, start = time.process_time(), time.perf_counter()
            calls[name]()
            answer(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)


if __name__ == "__main__":
    main()
