"""Trains a network with MLHF or another optimizer: `python train_val/use_meta_optimizer.py`."""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import use_flags

    running.begin(__doc__, use_flags.define_flags, use_flags.check_flags)

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tqdm
from absl import flags

from mlhf.distribute import DataParallel
from mlhf.runs.run import LARGEST_SKIPS_IN_A_ROW
from train_val.cli import problem_of_flags
from train_val.cli.exit_statuses import DivergedError
from train_val.cli.flags import use_flags
from train_val.problems.problem import Problem
from train_val.training import loop, optimizers, processes
from train_val.training.optimizer_table import RULE

FLAGS = flags.FLAGS
# Reports measure at least this many images, if there are as many.
LEAST_IMAGES = 1000
# Training has diverged if its loss is above that of the first batch by this factor.
LARGEST_RISE = 10
define_flags, check_flags = use_flags.define_flags, use_flags.check_flags


def steps_of(epochs: float, images: int, batch_size: int) -> int:
    """Returns how many steps a number of epochs takes, rounded up."""
    return max(1, math.ceil(epochs * images / batch_size))


def choose_optimizer() -> optimizers.Chosen:
    """Returns the optimizer that the flags describe."""
    rule = {flag: FLAGS[flag].value for flag in RULE if flag != "lr"}
    given = {flag for flag in RULE if FLAGS[flag].present}
    return optimizers.make(
        FLAGS.optimizer,
        lr=FLAGS.lr,
        momentum=FLAGS.momentum,
        beta1=FLAGS.beta1,
        beta2=FLAGS.beta2,
        decay=FLAGS.decay,
        meta_ckpt=FLAGS.meta_ckpt,
        rule=rule,
        given=given,
        product_dtype=FLAGS.product_dtype,
        jit_compile=FLAGS.jit_compile,
        detailed=FLAGS.print_log_in_meta_optimizer,
    )


def main() -> None:
    """Reads the flags, trains and prints the result."""
    strategy = processes.make_strategy(FLAGS.strategy)
    problem = problem_of_flags.make_problem("train")
    chosen = choose_optimizer()
    images = len(problem.train)
    steps = steps_of(FLAGS.train_epochs, images, FLAGS.batch_size)
    steps = min(steps, FLAGS.max_steps or steps)
    if use_flags.is_scheduled():
        horizon = FLAGS.horizon or steps
        chosen = optimizers.with_schedule(chosen, FLAGS.schedule, horizon, FLAGS.warmup)
    optimizer = chosen.optimizer
    if strategy is not None:
        optimizer = DataParallel(strategy, optimizer)
        chosen.notes.append(processes.described(optimizer))
    is_first = processes.Processes(optimizer).is_first
    for note in chosen.notes if is_first else ():
        print(note)
    if FLAGS.split == "standard" and is_first:
        print(
            "With split=standard the training images include those that meta-training may have "
            "seen (CIFAR-10's batches 1 to 3, or all five)."
        )
    problem = bounded(problem, steps)
    result = loop.train(
        problem,
        optimizer,
        steps,
        seed=FLAGS.seed,
        model_dir=FLAGS.model_dir or use_flags.default_folder(),
        save_steps=FLAGS.save_steps,
        save_minutes=FLAGS.save_minutes,
        eval_steps=steps_of(FLAGS.epochs_per_eval, images, FLAGS.batch_size),
        record_experience=FLAGS.record_experience,
        settings={**chosen.settings, **problem_of_flags.problem_settings(problem)},
        on_step=print_own_numbers if FLAGS.print_log_in_meta_optimizer else None,
        on_not_finite=problem_of_flags.name_once(),
        statistics=FLAGS.statistics,
    )
    if is_first:
        print(
            report(result, problem.measured_images, problem.tested_images, statistics_of(problem))
        )
    if trouble := diverged(result):
        raise DivergedError(trouble)


def bounded(problem: Problem, steps: int) -> Problem:
    """Returns the problem with a number of images to measure on that suits the flags and steps.

    So a few steps to try something out are not followed by minutes of measuring.

    Args:
      problem: The problem that the flags describe.
      steps: The number of training steps.
    """
    enough = max(LEAST_IMAGES, steps * FLAGS.batch_size)
    return dataclasses.replace(
        problem,
        train_sample=FLAGS.loss_images or min(enough, problem.measured_images),
        test_sample=FLAGS.test_images or enough,
    )


def diverged(result: loop.TrainingResult) -> str | None:
    """Returns a sentence if training has diverged, else None.

    It has diverged if too many steps in a row were not finite, the loss at the end is not finite,
    or the loss on the last batches is above that on the first by a factor of 10.
    """
    advice = "Try a smaller --lr, or for second-order optimizers a larger --damping."
    if result.diverged:
        return f"Training diverged: {LARGEST_SKIPS_IN_A_ROW} steps in a row. {advice}"
    losses = [math.inf if line["loss"] is None else line["loss"] for line in result.history]
    if not math.isfinite(result.training_loss):
        return f"Training diverged: its loss is {result.training_loss}. {advice}"
    last = float(np.median(losses[-5:])) if losses else 0.0
    if losses and last > LARGEST_RISE * max(losses[0], 1e-6):
        return (
            f"Training diverged: the loss on batches rose from {losses[0]:.4g} to {last:.4g}. "
            f"{advice}"
        )
    return None


def print_own_numbers(step: int, metrics: Mapping[str, Any]) -> None:
    """Writes a line with the numbers that the optimizer itself reports for a step."""
    tqdm.tqdm.write(problem_of_flags.own_numbers(step, metrics))


def statistics_of(problem: Problem) -> str:
    """Returns a sentence about the statistics of normalisation in evaluations, if there are any."""
    if not problem.normalised:
        return ""
    if FLAGS.statistics == "moving":
        return (
            "Evaluated with the moving averages that training leaves, as in the paper; "
            "--statistics=population takes them anew at the weights as they are."
        )
    return (
        f"Evaluated with statistics of normalisation taken anew from {problem.population_images:,} "
        "training images; --statistics=moving has the paper's moving averages."
    )


def report(result: loop.TrainingResult, measured: int, tested: int, statistics: str = "") -> str:
    """Returns the outcome in a sentence or two.

    Args:
      result: The result of training.
      measured: The number of training images that the loss was measured on.
      tested: The number of test images that the accuracy was measured on.
      statistics: A sentence about the statistics of normalisation.
    """
    text = (
        f"{result.steps} steps: loss on {measured:,} training images {result.training_loss:.4f}, "
        f"test accuracy on {tested:,} images {result.accuracy:.2%}."
    )
    if statistics:
        text += f" {statistics}"
    if result.skipped:
        text += f" {result.skipped} steps were not finite and were not taken."
    if result.diverged:
        text += f" Training ended early: {LARGEST_SKIPS_IN_A_ROW} of them came in a row."
    return text


if __name__ == "__main__":
    running.finish(main)
