"""Compares optimizers, each at its best settings: `python train_val/compare_optimizers.py`."""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import comparison_flags

    running.begin(__doc__, comparison_flags.define_flags, comparison_flags.check_flags)

import contextlib
import dataclasses
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import flags

from mlhf.distribute import ProcessExecutor
from replay import DirectoryLock, replace_file
from train_val import comparison, task_families
from train_val.cli.exit_statuses import DivergedError
from train_val.cli.flags import comparison_flags
from train_val.data import IMAGENET, StoredImages
from train_val.problems.array_problem import ArrayProblem
from train_val.problems.problem import Problem

FLAGS = flags.FLAGS
define_flags, check_flags = comparison_flags.define_flags, comparison_flags.check_flags
# The steps that are reported by default, as shares of all steps.
SHARES = (0.1, 0.25, 0.5, 1.0)


def problem_arguments() -> dict[str, Any]:
    """Returns the problem that the flags describe, as a structure of JSON."""
    arguments = {
        "name": FLAGS.problem,
        "part": FLAGS.part,
        "train_sample": FLAGS.loss_images,
        "test_sample": FLAGS.test_images,
        "task": FLAGS.task,
        "task_file": FLAGS.task_file,
    }
    same = ("data", "data_dir", "split", "batch_size", "weight_decay", "data_format")
    arguments.update({name: FLAGS[name].value for name in same})
    if FLAGS.problem.lower() == "resnet":
        arguments["resnet_size"] = FLAGS.resnet_size
    data = FLAGS.data, *(FLAGS.task or "").split(":")
    if IMAGENET in data or f"data={IMAGENET}" in data:
        arguments.update(num_classes=FLAGS.num_classes, image_size=FLAGS.image_size)
    return {name: value for name, value in arguments.items() if value is not None}


def reported_steps(steps: int, every: int) -> list[int]:
    """Returns the steps that the table reports: those of `--report`, or a few."""
    asked = comparison_flags.reported()
    if asked:
        return asked
    shares = {min(steps, max(1, round(share * steps / every)) * every) for share in SHARES}
    # Accuracy, seconds and target are those of the last step, even if it is no multiple of `every`.
    return sorted({*shares, steps})


def main() -> None:
    """Reads the flags, compares and writes the results."""
    entrants = comparison.parse_all(FLAGS.optimizers, FLAGS.meta_ckpt)
    arguments = problem_arguments()
    problem = dataclasses.replace(task_families.problem_of(arguments), statistics=FLAGS.statistics)
    steps = FLAGS.steps
    every = FLAGS.every or max(1, steps // 20)
    report = reported_steps(steps, every)
    folder = Path(FLAGS.model_dir or f"./compare_{problem.name}")
    folder.mkdir(parents=True, exist_ok=True)

    def cost(entrant: comparison.Entrant, setting: Mapping[str, Any]) -> comparison.Cost:
        return comparison.measure_apart(
            arguments, entrant.text, setting, FLAGS.meta_ckpt, FLAGS.cost_rounds
        )

    with alone_in(folder):
        scores = comparison.scoreboard(
            problem,
            entrants,
            seeds=range(1, FLAGS.seeds + 1),
            steps=steps,
            every=every,
            also=report,
            tuning_steps=FLAGS.tuning_steps or steps,
            largest=FLAGS.tuning_settings,
            least=FLAGS.least_settings,
            cost=cost if FLAGS.cost_rounds else None,
            cost_rounds=FLAGS.cost_rounds,
            conditions=cache_conditions(arguments, problem),
            cache=folder / "runs.jsonl",
            save_minutes=FLAGS.save_minutes,
            apart=runs_apart(arguments),
        )
        scores = comparison.at_measured_cost(scores)
        rows, target = comparison.summarize(scores, report, FLAGS.target)
        facts = conditions_of(problem, target)
        explanation = explain(steps, every)
        text = comparison.scoreboard_table(rows, problem.measured)
        command = shlex.join(["python", *sys.argv])
        title = FLAGS.title or problem.task.name
        about = {"title": title, "command": command, "target": target, "report": report, **facts}
        comparison.json_lines(folder / "results.jsonl", scores, rows, about)
        paragraphs = "\n\n".join(explanation)
        write(folder / "comparison.md", f"# {title}\n\n{paragraphs}\n\n{text}\n\n    {command}\n")
        page = comparison.page(
            title,
            scores,
            rows,
            explanation=explanation,
            facts=facts,
            command=command,
        )
        write(folder / "comparison.html", page)
        comparison.scoreboard_picture(scores, folder / "comparison.png", title)
        print(f"\n{title}\n\n{text}\n")
        for warning in edges(scores):
            print(warning)
        print(f"Page: {folder / 'comparison.html'}; picture, table and numbers beside it.")
    if all(curve.diverged_at is not None for score in scores for curve in score.curves):
        raise DivergedError("All optimizers diverged in all runs: give them smaller rates.")


def runs_apart(arguments: Mapping[str, Any]) -> comparison.RunsApart | None:
    """Returns what makes several runs at once; None for one job.

    Args:
      arguments: The arguments from `problem_arguments`.
    """
    if FLAGS.jobs == 1:
        return None
    executor = ProcessExecutor(FLAGS.jobs)
    return comparison.RunsApart(executor, arguments, FLAGS.statistics, FLAGS.meta_ckpt)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other comparisons out of a folder: two would write into each other's files.

    Args:
      folder: An existing folder.

    Yields:
      Nothing.

    Raises:
      ValueError: If another comparison uses the folder.
    """
    try:
        lock = DirectoryLock(folder, "comparison")
    except RuntimeError as error:
        raise ValueError(
            f"Expected a --model_dir that no other command is using, but {error}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def cache_conditions(arguments: Mapping[str, Any], problem: Problem) -> dict[str, Any]:
    """Returns what runs depend on besides the problem's name and the optimizer.

    Args:
      arguments: The arguments from `problem_arguments`.
      problem: The problem that they describe.

    Returns:
      A structure of JSON, which is part of the key that runs are stored under.
    """
    conditions = {
        name: arguments[name]
        for name in ("part", "train_sample", "test_sample", "image_size")
        if name in arguments
    }
    if isinstance(problem.train, StoredImages):
        # The problem's name does not distinguish two folders of photographs.
        conditions["num_classes"] = problem.train.num_classes
        conditions["train_images"] = len(problem.train)
        conditions["images"] = problem.image_fingerprint
    if isinstance(problem, ArrayProblem):
        conditions["data"] = problem.image_fingerprint
    if "task_file" in arguments:
        conditions["task_file"] = task_families.file_digest(arguments["task_file"])
    return conditions


def edges(scores: Sequence[comparison.Score]) -> list[str]:
    """Returns a warning for each optimizer whose best settings lie at an edge of those tried."""
    return [
        f"Warning: the best settings of {score.entrant.title} lie at the edge of the "
        f"{len(score.tuning.tried)} that were tried: give it another grid, or more "
        "--tuning_settings."
        for score in scores
        if not score.tuning.inside
    ]


def explain(steps: int, every: int) -> list[str]:
    """Returns the paragraphs that tell a reader how the comparison was made."""
    seeds = f"{FLAGS.seeds} seeds" if FLAGS.seeds > 1 else "one seed"
    text = (
        "All optimizers see the same objective, the same initial weights and the same batches in "
        f"the same order. Each was tuned on a seed of its own by the training loss after "
        f"{FLAGS.tuning_steps or steps} steps; its grid was continued until the best settings lay "
        f"inside it or {FLAGS.tuning_settings} settings were tried (edge). It was then run for "
        f"{steps} steps "
        f"on {seeds}, measured every {every} steps: medians, with the extremes in brackets (bands "
        "in the charts). The column tried is the number of settings that tuning ran."
    )
    if not FLAGS.cost_rounds:
        return [text, "Seconds are those of training alone, without tracing and measuring."]
    return [
        text,
        "The cost of a step is its mean time divided by that of a gradient on the same batch size, "
        "timed alternately in a separate process, whose peak memory is given beside it (libraries, "
        "data and network included). Seconds are steps times that cost times the seconds of a "
        "gradient, the least measured beside any optimizer, so that other jobs do not count.",
    ]


def conditions_of(problem: Any, target: float | None) -> dict[str, str]:
    """Returns the conditions of the comparison as text, by name."""
    measured = problem.measured_images
    tested = problem.tested_images
    parameters = sum(int(tf.size(leaf)) for leaf in tf.nest.flatten(problem.task.initialize(0)))
    own = isinstance(problem, ArrayProblem)
    what = "examples" if own else "images"
    facts = {
        "problem": problem.task.name,
        "parameters": f"{parameters:,}",
        "training loss": f"on {measured:,} of the {len(problem.train):,} training {what}, "
        + ("" if own else "not augmented, ")
        + "with the regularizer",
        problem.measured: f"on {tested:,} of the {len(problem.test):,} test {what}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}"
        + (", GPU" if tf.config.list_physical_devices("GPU") else ""),
        "versions": f"Python {platform.python_version()}, TensorFlow {tf.__version__}",
    }
    if problem.normalised:
        facts["statistics of normalisation"] = (
            "the moving averages that training leaves, as in the paper"
            if problem.statistics == "moving"
            else f"computed anew from {problem.population_images:,} training {what} before every "
            "measurement"
        )
    if target is not None:
        facts["target loss"] = f"{target:.4g}" + ("" if FLAGS.target else ", Adam's at the end")
    return facts


def write(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    with replace_file(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    running.finish(main)
