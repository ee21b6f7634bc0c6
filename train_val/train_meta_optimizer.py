"""Meta-trains an MLHF optimizer: `python train_val/train_meta_optimizer.py --data_dir=...`."""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import meta_training_flags

    running.begin(__doc__, meta_training_flags.define_flags, meta_training_flags.check_flags)

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tqdm
from absl import flags

import mlhf
from mlhf.checks.arguments import check_number
from mlhf.meta_training.controller_evolution import FILE_IN_FOLDER as CONTROLLER
from replay import PrioritizedReplay
from train_val import task_families
from train_val.cli import problem_of_flags
from train_val.cli.exit_statuses import DivergedError
from train_val.cli.flags import meta_training_flags
from train_val.problems.problem import Problem
from train_val.training import loop, run_settings
from train_val.training.optimizer_table import RULE

FLAGS = flags.FLAGS
define_flags, check_flags = meta_training_flags.define_flags, meta_training_flags.check_flags

# Epochs, counted by the images really seen, at which the meta learning rate is divided by 10.
BOUNDARIES = (150, 190, 220)
REPORTED = ("loss", "meta_loss", "hession_loss")
# The flags that a continued run must share, besides those of the problem and the estimator.
SHARED = (
    *RULE,
    "estimator",
    "meta_roll_back",
    "meta_lr",
    "seed",
    "tasks",
    "meta_ckpt",
    "initial_damping",
    "product_dtype",
)


def schedule(meta_lr: float, images_a_step: float, images: int) -> Callable[[int], float]:
    """Returns the meta learning rate as a function of the meta-steps done.

    Args:
      meta_lr: The initial rate; divided by 10 at each of the epochs `BOUNDARIES`.
      images_a_step: The average number of images per meta-step.
      images: The number of images in an epoch.

    Raises:
      ValueError: If the rate is not positive.
    """
    check_number("meta_lr", meta_lr, above=0)

    def rate(step: int) -> float:
        epoch = step * images_a_step / images
        return meta_lr * 0.1 ** sum(epoch >= boundary for boundary in BOUNDARIES)

    return rate


class Report:
    """Writes a line of means every few epochs; a callback for `on_step`."""

    def __init__(
        self,
        steps_an_epoch: float,
        epochs: int,
        own_numbers: bool = False,
        write: Callable[[str], None] = tqdm.tqdm.write,
        reported: Sequence[str] = REPORTED,
    ) -> None:
        """Sets a report up.

        Args:
          steps_an_epoch: Meta-steps that show every image once; not always a whole number.
          epochs: Epochs between two lines.
          own_numbers: Whether to write, at each step, the numbers of the optimizer itself too.
          write: Writes a line.
          reported: The metrics in a line.
        """
        self._steps, self._epochs = steps_an_epoch, epochs
        self._own_numbers, self._write, self._reported = own_numbers, write, reported
        self._seen: list[Mapping[str, Any]] = []

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of a meta-step."""
        if self._own_numbers:
            self._write(problem_of_flags.own_numbers(step, metrics))
        self._seen.append(metrics)
        period = self._steps * self._epochs
        if int(step / period) == int((step - 1) / period):
            return
        means = ", ".join(
            f"{name} {sum(m[name] for m in self._seen) / len(self._seen):.4f}"
            for name in self._reported
        )
        self._write(
            f"epoch {step / self._steps:.0f}, {step} meta-steps: {means} (means of the last "
            f"{len(self._seen)})"
            + (f", {metrics['skipped']} skipped" if "skipped" in metrics else "")
        )
        self._seen = []


def open_experience(path: str) -> PrioritizedReplay:
    """Opens the replay that `use_meta_optimizer.py --record_experience` recorded.

    Args:
      path: The replay's folder, or the `model_dir` that it is in.

    Returns:
      The replay.

    Raises:
      ValueError: If there is none, or another process uses it.
    """
    inside = Path(path) / loop.EXPERIENCE
    folder = inside if inside.is_dir() else Path(path)
    try:
        return PrioritizedReplay.load(folder)
    except (FileNotFoundError, RuntimeError) as error:
        raise ValueError(
            f"Expected a recorded experience in {folder}, could not open it ({error}). "
            "use_meta_optimizer.py --record_experience=N makes one when it finishes."
        ) from error


def make_problems() -> list[Problem]:
    """Returns the problem that the flags describe, or the problems of `--tasks`."""
    if FLAGS.task_file:
        task_families.load_file(FLAGS.task_file)
    if not FLAGS.tasks:
        return [problem_of_flags.make_problem("meta_train")]
    of_imagenet = ("num_classes", "image_size")
    names = ("data", "data_dir", "split", "batch_size", "weight_decay", "seed", *of_imagenet)
    given = {name: FLAGS[name].value for name in names}
    if FLAGS.data_format != "auto":
        given["data_format"] = FLAGS.data_format
    return task_families.make_all(FLAGS.tasks, part="meta_train", **given)


def make_optimizer() -> mlhf.MetaHessianFree:
    """Returns the optimizer that the flags describe: a new one, or that of `--meta_ckpt`.

    The rule and the learning rate are those of `--meta_ckpt` unless flags set them.

    Returns:
      The optimizer.

    Raises:
      ValueError: If the weights of `--meta_ckpt` do not fit the uses that the flags ask for.
    """
    rule: dict[str, Any] = {n: FLAGS[flag].value for flag, n in RULE.items()}
    others: dict[str, Any] = {
        "initial_damping": FLAGS.initial_damping,
        "product_dtype": FLAGS.product_dtype,
        "detailed": FLAGS.print_log_in_meta_optimizer,
        "seed": FLAGS.seed,
    }
    if FLAGS.meta_ckpt is None:
        return mlhf.MetaHessianFree(**rule, **others)
    given = {name: rule[name] for flag, name in RULE.items() if FLAGS[flag].present}
    return mlhf.MetaHessianFree.from_pretrained(FLAGS.meta_ckpt, **given, **others)


def controller() -> mlhf.MetaMuon:
    """Returns the optimizer whose controller is learned: from nothing, or from `--meta_ckpt`."""
    path = FLAGS.meta_ckpt
    if path is not None and Path(path).is_dir():
        path = str(Path(path) / CONTROLLER)
    return mlhf.MetaMuon(FLAGS.horizon, weights=path or "neutral")


def main() -> None:
    """Reads the flags and meta-trains."""
    problems = make_problems()
    by_whole_trainings = FLAGS.estimator == "es"
    optimizer = controller() if by_whole_trainings else make_optimizer()
    # In a mixture, a meta-step sees batches of one task; the tasks take turns.
    batch_size = sum(problem.batch_size for problem in problems) / len(problems)
    # An update of es has two trainings for every task.
    length = 2 * len(problems) * FLAGS.horizon if by_whole_trainings else FLAGS.meta_roll_back
    images_a_step = batch_size * length
    # In a mixture, an epoch is an epoch of the largest data set for every task.
    images = len(problems) * max(len(problem.train) for problem in problems)
    steps = math.ceil(FLAGS.train_epochs * images / images_a_step)
    folder = FLAGS.model_dir or "./meta_optimizer"
    shared = settings(problems)
    run_settings.check(Path(folder), shared)
    steps = min(steps, FLAGS.max_steps or steps)
    arguments: dict[str, Any] = {
        "seed": FLAGS.seed,
        "model_dir": folder,
        "save_steps": FLAGS.save_steps,
        "save_minutes": FLAGS.save_minutes,
    }
    if not by_whole_trainings:
        arguments["roll_back"] = FLAGS.meta_roll_back
        arguments["meta_lr"] = schedule(FLAGS.meta_lr, images_a_step, images)
    tasks = [problem.task for problem in problems]
    pace = images / images_a_step, FLAGS.epochs_per_eval
    result: mlhf.MetaTraining[Any]
    if isinstance(optimizer, mlhf.MetaMuon):
        for name in ("meta_lr", "deviation"):
            if FLAGS[name].present:
                arguments[name] = FLAGS[name].value
        result = mlhf.evolve_controller(
            tasks,
            optimizer,
            steps,
            on_step=keeping(Report(*pace, reported=("log_loss", "difference")), folder, shared),
            **arguments,
        )
    elif FLAGS.estimator == "pes":
        result = mlhf.evolve(
            tasks,
            optimizer,
            steps,
            horizon=FLAGS.horizon,
            pairs=FLAGS.pairs,
            deviation=FLAGS.deviation,
            layers=FLAGS.layers,
            on_step=keeping(Report(*pace, reported=("loss", "log_loss", "rate")), folder, shared),
            **arguments,
        )
    else:
        result = mlhf.meta_train(
            tasks,
            optimizer,
            steps,
            keep_prob=FLAGS.keep_prob,
            experience=open_experience(FLAGS.experience) if FLAGS.experience else None,
            jit_compile=FLAGS.jit_compile,
            on_step=keeping(
                Report(*pace, own_numbers=FLAGS.print_log_in_meta_optimizer), folder, shared
            ),
            on_not_finite=problem_of_flags.name_once(),
            **arguments,
        )
    print(summary(result, folder))
    if result.diverged:
        raise DivergedError("Meta-training diverged: try a smaller --meta_lr or --lr.")


def keeping(
    report: Report, folder: str, shared: Mapping[str, Any]
) -> Callable[[int, Mapping[str, Any]], None]:
    """Returns a report that also writes the settings into the folder, once this run owns it."""
    written = False

    def on_step(step: int, metrics: Mapping[str, Any]) -> None:
        nonlocal written
        if not written:
            run_settings.write(Path(folder), shared)
            written = True
        report(step, metrics)

    return on_step


def settings(problems: list[Problem]) -> dict[str, Any]:
    """Returns the settings, mostly flags, that a folder must share with the run that continues it.

    Args:
      problems: The problems from `make_problems`.
    """
    # These change only how a step is compiled and what is reported.
    free = ("jit_compile", "print_log_in_meta_optimizer", "debug_grad")
    own = meta_training_flags.OF_ESTIMATOR[FLAGS.estimator]
    names = (*SHARED, *(name for name in own if name not in free))
    shared = {name: FLAGS[name].value for name in names}
    if FLAGS.task_file:
        shared["task_file"] = task_families.file_digest(FLAGS.task_file)
    return {**shared, **problem_of_flags.problem_settings(*problems)}


def summary(result: mlhf.MetaTraining[Any], folder: str) -> str:
    """Returns the outcome in a sentence or two."""
    text = f"{result.steps} meta-steps; the optimizer is in {folder} "
    if isinstance(result.optimizer, mlhf.MetaMuon):
        file = Path(folder) / CONTROLLER
        text += f"(mlhf.MetaMuon(steps, weights={str(file)!r}), or metamuon:weights={file})."
    else:
        text += f"(give it as --meta_ckpt={folder})."
    if result.skipped:
        text += f" {result.skipped} meta-steps were not finite and were left out."
    if result.diverged:
        text += " Meta-training ended early, since they came in a row."
    return text


if __name__ == "__main__":
    running.finish(main)
