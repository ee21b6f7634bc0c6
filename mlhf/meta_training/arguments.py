"""Checks of the arguments that both ways of meta-training take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from mlhf.checks.structures import kind
from mlhf.layout import Layout
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.task import Task


def tasks_of(task: Any) -> list[Task]:
    """Returns the tasks of a meta-training as a list.

    Args:
      task: A `Task` or a sequence of tasks.

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
    """Raises TypeError if one of the named callbacks is neither None nor a function."""
    for name, function in callbacks.items():
        if function is not None and not callable(function):
            raise TypeError(f"Expected {name}= as a function or None, got {kind(function)}.")


def check_learnable(tasks: Sequence[Task], optimizer: MetaHessianFree) -> None:
    """Checks that there is something to learn, and a task to learn it on.

    Args:
      tasks: The tasks to meta-train on.
      optimizer: The optimizer to meta-train.

    Raises:
      TypeError: If the optimizer is not a `MetaHessianFree`.
      ValueError: If its rule has no LSTMs or its learning rate is a schedule, or without tasks.
    """
    if not isinstance(optimizer, MetaHessianFree):
        raise TypeError(f"Expected a MetaHessianFree to meta-train, got {optimizer!r}.")
    if not optimizer.rule.roles:
        raise ValueError('There is nothing to learn: give x_use="rnn", y_use="rnn" or d_use="rnn".')
    if not tasks:
        raise ValueError("Expected a task, or several, got none.")
    # Raises an error for a schedule.
    optimizer._number("learning_rate", tf.float64)


def common_dtype(layouts: Sequence[Layout]) -> tf.DType:
    """Returns the dtype that all layouts have.

    Args:
      layouts: The layouts, at least one.

    Raises:
      ValueError: If their dtypes differ.
    """
    dtypes = {layout.dtype for layout in layouts}
    if len(dtypes) > 1:
        raise ValueError(
            f"Expected tasks of one dtype, got {sorted(dtype.name for dtype in dtypes)}."
        )
    return layouts[0].dtype
