"""What a step of each optimizer costs, in gradients of the same batch, on the paper's convnet.

    python -m benchmarks.step_costs --data_dir=$DATA [--batch_size=512] [--rounds=20]

Each optimizer has a process of its own, in which steps and gradients are timed in turns after ten
steps; the peak memory is that process's, libraries and data included.
"""

from __future__ import annotations

import argparse

from mlhf.runs.memory import keep_freed_memory
from train_val.cli import quiet

OPTIMIZERS = "adam,muon,soap,prodigy,amuse,curvaturemuon,metamuon,kfac,hf:share=0.25,hf"


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="the folder with cifar-10-batches-bin")
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--optimizers", default=OPTIMIZERS, help="as for compare_optimizers.py")
    arguments = parser.parse_args()
    # The processes that measure have the environment of this one.
    keep_freed_memory()
    quiet.load_tensorflow()
    from train_val import comparison

    problem = {
        "name": "convnet",
        "data": "cifar10",
        "data_dir": arguments.data_dir,
        "part": "train",
        "batch_size": arguments.batch_size,
    }
    print("| optimizer | a step, in gradients | median | milliseconds | peak GB |")
    print("| --- | --- | --- | --- | --- |")
    for entrant in comparison.parse_all(arguments.optimizers):
        setting = {name: values[0] for name, values in entrant.axes.items()}
        cost = comparison.measure_apart(problem, entrant.text, setting, rounds=arguments.rounds)
        peak = (cost.peak_bytes or 0) / 1e9
        print(
            f"| {entrant.title} | {cost.gradients:.2f} | {cost.median:.2f} | "
            f"{1e3 * cost.step_seconds:.0f} | {peak:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
