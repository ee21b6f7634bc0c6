"""Tables and files that the experiments share."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from mlhf.distribute import ProcessExecutor
from replay import DamagedFileError, read_json, replace_file
from train_val.cli.flags.experiment_flags import seeds_of
from train_val.training import seeds_apart

FLAGS = flags.FLAGS
# The entry, beside the runs in their file, of the flags that they were made with.
_SETTINGS = "flags"


def folder(path: str) -> Path:
    """Returns a folder, which is made if it does not exist."""
    made = Path(path)
    made.mkdir(parents=True, exist_ok=True)
    return made


def save(path: Path, runs: Mapping[Any, Any], settings: Mapping[str, Any] | None = None) -> None:
    """Writes runs as JSON, whole or not at all.

    Args:
      path: The file.
      runs: The runs, by seed.
      settings: The flags that they were made with, which become the file's entry "flags".
    """
    content = {str(seed): run for seed, run in runs.items()}
    if settings is not None:
        content[_SETTINGS] = settings
    with replace_file(path) as file:
        file.write(json.dumps(content).encode())


def load(path: Path, settings: Mapping[str, Any]) -> dict[int, Any]:
    """Returns the runs in a file, by seed; none if they were made with other settings.

    Args:
      path: The file. If it is damaged or something else, it is renamed to NAME.json.damaged.
      settings: The flags that the runs have to be made with.
    """
    try:
        content = read_json(path, "the runs of an experiment")
    except FileNotFoundError:
        return {}
    except DamagedFileError as error:
        aside = path.with_name(path.name + ".damaged")
        os.replace(path, aside)
        print(f"{error} It is {aside} now, and its runs are done again.", flush=True)
        return {}
    if content.pop(_SETTINGS, None) != settings:
        return {}
    return {int(seed): run for seed, run in content.items() if seed.isdecimal()}


def run_seeds(name: str, names: Sequence[str], run: Callable[[int], Any]) -> dict[int, Any]:
    """Runs the seeds of `--seeds` and saves each run in NAME.json as soon as it is done.

    Runs in the file are not repeated, whether an earlier command ended or was killed: to repeat
    a run, remove the file. With `--jobs` several seeds are run at once, in processes.

    Args:
      name: The name of the experiment.
      names: The flags that a run depends on besides its seed; runs with other values are dropped.
      run: A function from a seed to a structure that JSON can hold.

    Returns:
      The runs, by seed.
    """
    seeds_apart.hand_over(run)
    path = folder(FLAGS.output) / f"{name}.json"
    settings = {name: FLAGS[name].value for name in names}
    seeds, done = seeds_of(FLAGS.seeds), load(path, settings)
    for seed in seeds:
        if seed in done:
            print(f"seed {seed}: kept from {path}", flush=True)
    missing = [seed for seed in seeds if seed not in done]
    if FLAGS.jobs > 1 and len(missing) > 1:
        found = seeds_apart.runs(ProcessExecutor(FLAGS.jobs), name, names, missing)
    else:
        found = map(run, missing)
    results = iter(found)
    for seed in missing:
        print(f"seed {seed}", flush=True)
        done[seed] = next(results)
        save(path, done, settings)
    return {seed: done[seed] for seed in seeds}


def table(runs: Mapping[Any, Mapping[str, Sequence[float]]], names: Sequence[str]) -> str:
    """Returns a table of curves: the first and the last value of each seed, and their means.

    Args:
      runs: Curves by name, by seed.
      names: The names of the curves in the table.

    Returns:
      The table, in Markdown.
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
