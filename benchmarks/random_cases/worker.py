"""A process that checks random cases, and answers each with a line of JSON.

    python -m benchmarks.random_cases.worker KIND usual|thorough SEED SEED ...

KIND is a package of `benchmarks.random_cases` with a function `run_case(seed, thorough)` that
returns an `Outcome`; `thorough` may make no difference. A line `{"begin": SEED}` precedes each
answer, so that the reader knows where a process died. TensorFlow keeps everything it traced, so a
process ends after some tens of cases.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

from benchmarks.random_cases.outcome import FAILED, Outcome


def main() -> None:
    """Checks the seeds of the command line in turn."""
    kind, how, *seeds = sys.argv[1:]
    # Tracing makes many small objects that persist: collect garbage less often.
    gc.set_threshold(50_000, 20, 20)
    # Output of libraries must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    module = importlib.import_module(f"benchmarks.random_cases.{kind}")
    for seed in map(int, seeds):
        answer(begin=seed)
        start = time.perf_counter()
        try:
            outcome = module.run_case(seed, how == "thorough")
        except Exception:
            # A failing generator or reference is a fault too; the traceback helps to find it.
            # Without the path of this machine's copy of the project.
            text = traceback.format_exc().replace(os.getcwd() + os.sep, "")
            outcome = Outcome(seed, {"case": FAILED}, notes=[text[-2000:]])
        answer(kind=kind, **outcome.record(), seconds=round(time.perf_counter() - start, 3))


if __name__ == "__main__":
    main()
