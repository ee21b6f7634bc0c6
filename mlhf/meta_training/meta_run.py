"""What both ways of meta-training share: their result, and what they refuse to begin with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlhf.checks.structures import kind
from mlhf.layout import Layout
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.runs.checkpoints import CheckpointError, check_same_run
from mlhf.task import Task

# How a checkpoint names the two ways.
BACKPROPAGATION = "backpropagation through rollouts"
EVOLUTION = "persistent evolution strategies"


@dataclasses.dataclass
class MetaTraining:
    """The result of `meta_train` and `evolve`.

    Attributes:
      optimizer: With the trained weights.
      history: The metrics, a dictionary for each meta-step whose record there is.
      skipped: Meta-steps that were not finite and left no trace in the weights.
      seconds_to_first_step: From the call to the end of the first meta-step, tracing included.
      diverged: Whether meta-training ended early because meta-steps stayed not finite.
      steps: Meta-steps done, those of a continued run included.
    """

    optimizer: MetaHessianFree
    history: list[dict[str, Any]]
    skipped: int
    seconds_to_first_step: float
    diverged: bool = False
    steps: int = 0


def tasks_of(task: Any) -> list[Task]:
    """Returns the tasks that meta-training was given, one or several.

    Args:
      task: A `Task` or a sequence of them.

    Raises:
      TypeError: If it is something else.
    """
    tasks = [task] if isinstance(task, Task) else task
    if not isinstance(tasks, Sequence) or not all(isinstance(part, Task) for part in tasks):
        raise TypeError(
            f"Expected an mlhf.Task, or a list of them, to meta-train on, got {kind(task)}: "
            "mlhf.Task(network, loss, initialize, batches)."
        )
    return list(tasks)


def check_callbacks(**callbacks: Any) -> None:
    """Raises TypeError where one is neither None nor a function.

    Args:
      **callbacks: By the names of their arguments.
    """
    for name, function in callbacks.items():
        if function is not None and not callable(function):
            raise TypeError(f"Expected {name}= as a function or None, got {kind(function)}.")


def check_learnable(tasks: Sequence[Task], optimizer: MetaHessianFree) -> None:
    """Refuses an optimizer without LSTMs, and no task.

    Args:
      tasks: To meta-train on.
      optimizer: To meta-train.

    Raises:
      TypeError: If the optimizer is not a `MetaHessianFree`.
      ValueError: With what to give.
    """
    if not isinstance(optimizer, MetaHessianFree):
        raise TypeError(f"Expected a MetaHessianFree to meta-train, got {optimizer!r}.")
    if not optimizer.rule.roles:
        raise ValueError('There is nothing to learn: give x_use="rnn", y_use="rnn" or d_use="rnn".')
    if not tasks:
        raise ValueError("Expected a task, or several, got none.")


def common_dtype(layouts: Sequence[Layout]) -> tf.DType:
    """Returns the dtype that all have.

    Args:
      layouts: At least one.

    Raises:
      ValueError: If they differ.
    """
    dtypes = {layout.dtype for layout in layouts}
    if len(dtypes) > 1:
        raise ValueError(
            f"Expected tasks of one dtype, got {sorted(dtype.name for dtype in dtypes)}."
        )
    return layouts[0].dtype


def check_signature(
    folder: Path, step: int, saved: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    """Refuses a checkpoint of another meta-training than the one that would continue it.

    Args:
      folder: Where it is.
      step: Of the checkpoint.
      saved: Its content.
      expected: The signature of this meta-training. One that is older than a setting goes on.

    Raises:
      CheckpointError: With what differs.
    """
    found = saved.get("signature")
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"Expected the checkpoints of a meta-training in {folder}, found those of "
            "something else (the training of a network?); give another folder."
        )
    # Older than the other way, and then without the name of this one.
    found = {"method": BACKPROPAGATION, **found}
    place = f"The checkpoint of step {step} in {folder}"
    check_same_run(place, {name: found.get(name, expected[name]) for name in expected}, expected)
