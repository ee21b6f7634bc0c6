"""Trains a network with MLHF or another optimizer: `python train_val/use_meta_optimizer.py`."""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401

import math
from collections.abc import Mapping
from typing import Any

import tqdm
from absl import flags

from train_val import command_line, optimizers, problems, training

FLAGS = flags.FLAGS


def steps_of(epochs: float, images: int, batch_size: int) -> int:
    """Returns how many steps show every image so many times, rounded up."""
    return max(1, math.ceil(epochs * images / batch_size))


def choose_optimizer() -> optimizers.Chosen:
    """Returns the optimizer that the flags describe."""
    rule = {flag: FLAGS[flag].value for flag in optimizers.RULE if flag != "lr"}
    given = {flag for flag in optimizers.RULE if FLAGS[flag].present}
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
    problem = command_line.make_problem("train")
    chosen = choose_optimizer()
    for note in chosen.notes:
        print(note)
    images = len(problem.train)
    steps = steps_of(FLAGS.train_epochs, images, FLAGS.batch_size)
    if FLAGS.split == "standard":
        print(
            "With split=standard the training images include those that meta-training may have "
            "seen (CIFAR-10's batches 1 to 3, or all five)."
        )
    result = training.train(
        problem,
        chosen.optimizer,
        min(steps, FLAGS.max_steps or steps),
        seed=FLAGS.seed,
        model_dir=FLAGS.model_dir or f"./eval_{FLAGS.problem}_{FLAGS.optimizer}".lower(),
        save_steps=FLAGS.save_steps,
        eval_steps=steps_of(FLAGS.epochs_per_eval, images, FLAGS.batch_size),
        record_experience=FLAGS.record_experience,
        settings={**chosen.settings, **command_line.problem_settings(problem)},
        on_step=print_own_numbers if FLAGS.print_log_in_meta_optimizer else None,
        on_not_finite=command_line.name_once(),
        statistics=FLAGS.statistics,
    )
    print(report(result, problem.measured_images, statistics_of(problem)))


def print_own_numbers(step: int, metrics: Mapping[str, Any]) -> None:
    """Writes a line with the optimizer's own numbers of a step."""
    tqdm.tqdm.write(command_line.own_numbers(step, metrics))


def statistics_of(problem: problems.Problem) -> str:
    """Returns in words what normalisation had in evaluations; empty for a network without."""
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


def report(result: training.TrainingResult, measured: int, statistics: str = "") -> str:
    """Returns the outcome in a sentence or two.

    Args:
      result: The result of training.
      measured: How many training images its loss is the loss of.
      statistics: What normalisation had, a sentence.
    """
    text = (
        f"{result.steps} steps: loss on {measured:,} training images {result.training_loss:.4f}, "
        f"test accuracy {result.accuracy:.2%}."
    )
    if statistics:
        text += f" {statistics}"
    if result.skipped:
        text += f" {result.skipped} steps were not finite and were not taken."
    if result.diverged:
        text += (
            f" Training ended early: {training.LARGEST_SKIPS_IN_A_ROW} of them came in a row. Try "
            "a smaller lr."
        )
    return text


def define_flags() -> None:
    """Defines the flags."""
    # Not the seed of meta-training, whose initial weights the optimizer has seen.
    command_line.define_common_flags(seed=1)
    flags.adopt_module_key_flags(command_line)  # for --help
    flags.DEFINE_enum(
        "optimizer", "meta", optimizers.NAMES, "What trains the network.", case_sensitive=False
    )
    flags.DEFINE_string("meta_ckpt", None, "The model_dir of a meta-training, for optimizer=meta.")
    flags.DEFINE_float("momentum", 0.9, "Of optimizer=momentum, and of kfac with lr.", 0.0, 1.0)
    flags.DEFINE_float("beta1", 0.9, "Of optimizer=adam.", 0.0, 1.0)
    flags.DEFINE_float("beta2", 0.999, "Of optimizer=adam.", 0.0, 1.0)
    flags.DEFINE_enum(
        "statistics",
        "population",
        training.STATISTICS,
        "What batch normalisation has in evaluations: statistics taken anew from training images "
        "at the weights as they are, or the moving averages, as in the paper.",
    )
    flags.DEFINE_integer(
        "record_experience",
        0,
        "Snapshots of the path to keep in model_dir/experience, for train_meta_optimizer's "
        "--experience.",
        lower_bound=0,
    )


if __name__ == "__main__":
    command_line.run(main, define_flags)
