"""The flags of `compare_optimizers.py`."""

from __future__ import annotations

from absl import flags

from replay.numbers import check_count
from train_val.cli import names
from train_val.cli.definitions import choice, number, text, whole, words
from train_val.cli.exit_statuses import UsageError
from train_val.cli.flags.training_flags import define_problem_flags
from train_val.cli.flags.use_flags import check_split, define_statistics
from train_val.cli.specification_checks import check_optimizers, check_tasks
from train_val.networks import network_table
from train_val.training import optimizer_table

FLAGS = flags.FLAGS
DEFAULT = "hf:damping=0.3/1/3,kfac:damping=0.3/1/3,SGD,momentum,adam,RMSprop"
_WHAT, _COMPARED, _LONG, _FILES = (
    "What is trained",
    "What is compared",
    "Length and reports",
    "Files",
)


def define_flags() -> None:
    """Defines the flags."""
    define_problem_flags()
    text(
        "task",
        None,
        "A task of a family instead of --problem, such as mlp:width=64:data=digits. Families: "
        f"{', '.join(network_table.FAMILIES)}.",
        _WHAT,
    )
    text("task_file", None, "A Python file that defines families of tasks.", _WHAT, only="--task")
    choice("part", "train", ("train", "meta_train"), "The part of the images to train on.", _WHAT)
    define_statistics()
    text(
        "optimizers",
        DEFAULT,
        "Names and settings, such as SGD,adam:lr=1e-3/1e-2,hf:cg=2:damping=0.1/1,meta:lr=1. Values "
        "separated by slashes are tuned over; if the best is the largest or the smallest, tuning "
        "goes beyond them. schedule=linear or cosine lets the learning rate fall to the last step, "
        "warmup=0.1 lets it rise over a tenth of the steps. Names: "
        f"{', '.join(optimizer_table.COMPARED)}.",
        _COMPARED,
    )
    text(
        "meta_ckpt",
        None,
        "The meta-trained optimizer that meta stands for: a model_dir, a file, or a name that "
        f"ships with the package ({', '.join(names.pretrained())}).",
        _COMPARED,
    )
    number(
        "target",
        None,
        "A training loss to reach; the table says how many steps each optimizer needs.",
        _COMPARED,
        shown="the loss that Adam, at its best, ends with",
    )
    _define_runs()
    text(
        "model_dir",
        None,
        "The folder for runs and results; runs that are finished there are not repeated.",
        _FILES,
        shown="./compare_PROBLEM",
    )
    number(
        "save_minutes",
        5.0,
        "Minutes after which an unfinished run is saved, so that it can continue after a kill; 0 "
        "for never. Ctrl-C and SIGTERM save it too.",
        _FILES,
        at_least=0,
    )
    text(
        "title",
        None,
        "The title of the table, the picture and the page.",
        _FILES,
        shown="the problem's name",
    )


def _define_runs() -> None:
    whole("seeds", 3, "Reported runs per optimizer.", _COMPARED)
    whole("tuning_settings", 16, "The most settings tried per optimizer.", _COMPARED)
    whole(
        "least_settings",
        8,
        "The fewest settings tried per optimizer that has something to tune.",
        _COMPARED,
        shown="8, but at most --tuning_settings",
    )
    whole(
        "jobs",
        1,
        "Runs made at once, in as many processes: the settings that tuning tries and the seeds. "
        "Losses are the same for any number; a run that is not finished when the command is ended "
        "begins again.",
        _LONG,
    )
    whole("steps", 200, "Steps of a reported run.", _LONG)
    whole("tuning_steps", None, "Steps of a tuning run.", _LONG, shown="as many as --steps")
    whole("every", None, "Steps between two measurements.", _LONG, shown="a 20th of --steps")
    words(
        "report",
        None,
        "Steps that the table shows; they are measured whatever --every is.",
        _LONG,
        shown="about a tenth, a quarter and half of --steps, and the last",
    )
    for name, what in (("loss", "Training images"), ("test", "Test images")):
        measured = "loss" if name == "loss" else "accuracy"
        whole(
            f"{name}_images",
            None,
            f"{what}, evenly spread, that the {measured} is measured on.",
            _LONG,
            shown="all",
        )
    whole(
        "cost_rounds",
        20,
        "Steps timed to measure the cost of a step; 0 measures no cost.",
        _LONG,
        at_least=0,
    )


def reported() -> list[int]:
    """Returns the steps of `--report`, ascending.

    Raises:
      UsageError: If a number is not a step of a run.
    """
    try:
        steps = sorted({check_count("--report", _whole(text)) for text in FLAGS.report or ()})
    except ValueError as error:
        raise UsageError(str(error)) from None
    if steps and steps[-1] > FLAGS.steps:
        raise UsageError(
            f"Expected --report among the {FLAGS.steps} steps of --steps, got {steps[-1]}."
        )
    return steps


def check_flags() -> None:
    """Refuses flags that contradict each other.

    Raises:
      UsageError: If there are any; the text says what to give.
    """
    if FLAGS.task_file and not FLAGS.task:
        raise UsageError(
            f"Expected --task of a family of {FLAGS.task_file} beside --task_file, got none."
        )
    unused = [name for name in ("problem", "resnet_size") if FLAGS[name].present]
    if FLAGS.task and unused:
        raise UsageError(f"Expected --task without --{unused[0]}: it says what is trained.")
    if FLAGS.task:
        if "," in FLAGS.task:
            raise UsageError(f"Expected one task as --task, got {FLAGS.task!r}.")
        check_tasks(FLAGS.task, FLAGS.task_file, "task")
    check_optimizers(FLAGS.optimizers, FLAGS.meta_ckpt)
    reported()
    if not FLAGS.task:
        check_split()  # a task may name data of its own


def _whole(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text
