"""Flags, tables and files that the experiments share."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags


def define_flags(iterations: int | None = None) -> None:
    """Defines the flags of an experiment: data_dir, seeds, output, and iterations if it has any."""
    flags.DEFINE_string("data_dir", None, "Where MNIST is; downloaded if left out.")
    flags.DEFINE_list("seeds", ["0"], "One run each.")
    if iterations is not None:
        flags.DEFINE_integer("iterations", iterations, "Steps on the hyperparameters.", 0)
    flags.DEFINE_string("output", "runs/experiments", "Where results go.")


def folder(path: str) -> Path:
    """Returns a folder, made if it is not there."""
    made = Path(path)
    made.mkdir(parents=True, exist_ok=True)
    return made


def save(path: Path, runs: Mapping[Any, Any]) -> None:
    """Writes runs as JSON."""
    path.write_text(json.dumps({str(seed): run for seed, run in runs.items()}))


def progress(seeds: Iterable[int]) -> Iterable[int]:
    """Yields seeds and says which one is running."""
    for seed in seeds:
        print(f"seed {seed}", flush=True)
        yield seed


def table(runs: Mapping[Any, Mapping[str, Sequence[float]]], names: Sequence[str]) -> str:
    """Returns a table of curves: the first and the last value of each seed, and their means.

    Args:
      runs: By seed, curves by name.
      names: Which curves.

    Returns:
      Markdown.
    """
    lines = [
        "| seed | " + " | ".join(f"{name}, first | last" for name in names) + " |",
        "|---" * (1 + 2 * len(names)) + "|",
    ]
    for seed, run in runs.items():
        cells = [f"{run[name][i]:.4f}" for name in names for i in (0, -1)]
        lines.append(f"| {seed} | " + " | ".join(cells) + " |")
    if len(runs) > 1:
        means = [
            statistics.mean(run[name][i] for run in runs.values())
            for name in names
            for i in (0, -1)
        ]
        lines.append("| mean | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")
    return "\n".join(lines)
