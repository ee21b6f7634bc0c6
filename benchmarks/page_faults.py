"""Page faults and processor time of steps, with and without `mlhf.keep_freed_memory`.

    python -m benchmarks.page_faults

Four steps of Hessian-free with a quarter of the batch for the curvature, of Muon and of MLHF as it
ships, on the paper's convnet at batches of 512 random images, each in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

STEPS, WARM_UP, BATCH = 4, 3, 512


def measure(name: str) -> dict[str, float]:
    """Returns what the steps of an optimizer take, in this process."""
    import numpy as np

    import mlhf
    from train_val.networks import convnets

    makers: dict[str, Callable[[], Any]] = {
        "hf:share=0.25": lambda: mlhf.HessianFree(curvature_share=0.25),
        "muon": lambda: mlhf.Muon(0.02),
        "meta": lambda: mlhf.MetaHessianFree.from_pretrained("convnet"),
    }
    network = convnets.convnet((32, 32, 3), 10)
    images = np.random.default_rng(0).normal(size=(BATCH, 32, 32, 3)).astype("float32")
    objective = mlhf.Objective(network, "softmax_cross_entropy", images, np.arange(BATCH) % 10)
    optimizer, parameters = makers[name](), mlhf.get_parameters(network)
    state = optimizer.init(network)
    for number in range(WARM_UP + STEPS):
        if number == WARM_UP:
            before = resource.getrusage(resource.RUSAGE_SELF)
        parameters, state, _, metrics = optimizer.step(objective, parameters, state)
        float(metrics["loss"])
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "faults": after.ru_minflt - before.ru_minflt,
        "system": after.ru_stime - before.ru_stime,
        "user": after.ru_utime - before.ru_utime,
        "peak": after.ru_maxrss / 1e6,
    }


def main() -> None:
    """Prints a table in Markdown, or what one process measures as JSON."""
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1])))
        return
    print("| optimizer | memory kept | page faults | system s | user s | peak GB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in ("hf:share=0.25", "muon", "meta"):
        for kept in ("0", "1"):
            environment = {**os.environ, "TF_CPU_ALLOCATOR_USE_BFC": kept}
            command = [sys.executable, "-m", "benchmarks.page_faults", name]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=environment
            )
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {name} | {'yes' if kept == '1' else 'no'} | {found['faults']:,} | "
                f"{found['system']:.2f} | {found['user']:.2f} | {found['peak']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
