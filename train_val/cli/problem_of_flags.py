"""Makes problems, settings and printed lines from the flags of a command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tqdm
from absl import flags

from mlhf.runs import debugging
from train_val.cli.flags.training_flags import OWN_NUMBERS
from train_val.data import IMAGENET
from train_val.problems import image_problems
from train_val.problems.problem import Problem

FLAGS = flags.FLAGS


def make_problem(part: str) -> Problem:
    """Returns the problem that the flags describe.

    Args:
      part: The part of the images to train on, `"meta_train"` or `"train"`.
    """
    return image_problems.make(
        FLAGS.problem,
        FLAGS.data,
        data_dir=FLAGS.data_dir,
        part=part,
        split=FLAGS.split,
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
        weight_decay=FLAGS.weight_decay,
        resnet_size=FLAGS.resnet_size,
        num_classes=FLAGS.num_classes,
        image_size=FLAGS.image_size,
        data_format=FLAGS.data_format,
    )


def problem_settings(*problems: Problem) -> dict[str, str]:
    """Returns the settings that a checkpoint must share with the run that continues it.

    Args:
      *problems: The problems that the flags describe.
    """
    names = ["problem", "data", "split", "batch_size", "weight_decay"]
    if FLAGS.problem == "resnet":
        names.append("resnet_size")
    images = [p.image_fingerprint for p in problems if p.image_fingerprint]
    if FLAGS.data == IMAGENET or images:
        names += ["num_classes", "image_size"]
    settings = {name: str(FLAGS[name].value) for name in names}
    return {**settings, **({"images": ", ".join(images)} if images else {})}


def own_numbers(step: int, metrics: Mapping[str, Any]) -> str:
    """Returns a line with the numbers that the optimizer itself reports for a step."""
    numbers = [
        f"{title} {metrics[name]:.4g}" for name, title in OWN_NUMBERS.items() if name in metrics
    ]
    return f"step {step}: {', '.join(numbers) or 'this optimizer has no numbers of its own'}"


def name_once() -> Callable[[Callable[[], Any]], None] | None:
    """Returns the callback of `--debug_grad`, which names the operation behind the first NaN.

    Returns:
      A function of a function that repeats the step; None without the flag.
    """
    if not FLAGS.debug_grad:
        return None
    named: list[str] = []

    def name(repeat: Callable[[], Any]) -> None:
        if not named:
            named.append(debugging.name_not_finite(repeat))
            tqdm.tqdm.write(named[0])

    return name
