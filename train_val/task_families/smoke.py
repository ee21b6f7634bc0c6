"""A test for users' own tasks: what a task must fulfil before it is worth meta-training on."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import tensorflow as tf

import mlhf
from train_val.problems.problem import Problem


def smoke_test(task: mlhf.Task | Problem, steps: int = 5) -> None:
    """Checks a task: call `train_val.task_families.smoke_test(task)` in a test.

    Initial parameters must be finite, the same for the same seed and different for another; batch k
    must be the same whenever it is asked for, and all batches must have one shape; the loss must
    have a finite gradient that reaches every parameter; every variable must have a kind;
    Hessian-free must lower the loss; a meta-step must be finite.

    Args:
      task: The task to check.
      steps: The number of Hessian-free steps.

    Raises:
      AssertionError: If the task fails; the text says what is wrong.
    """
    task = task.task if isinstance(task, Problem) else task
    parameters = task.initialize(1)
    leaves = tf.nest.flatten(parameters)
    _check(
        all(bool(tf.reduce_all(tf.math.is_finite(leaf))) for leaf in leaves),
        "initialize(1) gives parameters that are not finite.",
    )
    _check(_same(parameters, task.initialize(1)), "initialize(1) gives something else each time.")
    _check(
        not _same(parameters, task.initialize(2)),
        "initialize(1) and initialize(2) give the same: make initial weights depend on the seed.",
    )

    first = list(itertools.islice(iter(task.batches(0)), 3))
    _check(len(first) == 3, "batches(0) ends after fewer than 3 batches: let it repeat its data.")
    again = next(iter(task.batches(2)))
    _check(
        _same(first[2], again),
        "batches(2) does not begin with what batches(0) gives as number 2: batch k has to be the "
        "same whenever it is asked for.",
    )
    shapes = [[tuple(np.shape(leaf)) for leaf in tf.nest.flatten(batch)] for batch in first]
    _check(shapes[0] == shapes[1] == shapes[2], f"batches come in several shapes: {shapes}.")

    objective = task.objective(*first[0])
    linearized = objective.linearize(parameters)
    _check(math.isfinite(float(linearized.value)), f"the initial loss is {linearized.value}.")
    names = list(parameters) if isinstance(parameters, dict) else range(len(leaves))
    gradient = tf.nest.flatten(linearized.gradient())
    # A dictionary flattens in the order of its sorted keys.
    names = sorted(names) if isinstance(parameters, dict) else names
    for name, value in zip(names, gradient, strict=False):
        _check(
            bool(tf.reduce_all(tf.math.is_finite(value))),
            f"the gradient of {name} is not finite.",
        )
        _check(bool(tf.reduce_any(value != 0)), f"the gradient of {name} is zero everywhere.")

    optimizer = mlhf.HessianFree(1.0, damping=1.0, cg_iterations=2)
    before = float(linearized.value)
    state, model_state = optimizer.init(parameters), task.initial_model_state()
    moved = parameters
    for _ in range(steps):
        taken = optimizer.step(task.objective(*first[0], model_state), moved, state)
        moved, state = taken.parameters, taken.state
        model_state = () if taken.model_state is None else taken.model_state
    after = float(task.objective(*first[0], model_state).linearize(moved).value)
    _check(
        after < before,
        f"{steps} steps of Hessian-free on one batch take its loss from {before:.6g} to "
        f"{after:.6g}: expected less.",
    )

    meta = mlhf.MetaHessianFree(0.5, cg_iterations=1)
    trained = mlhf.meta_train(task, meta, 1, roll_back=2, meta_lr=1e-3, progress=False)
    _check(trained.skipped == 0, "a meta-step of 2 steps is not finite.")


def _check(fulfilled: bool, sentence: str) -> None:
    if not fulfilled:
        raise AssertionError(f"The task fails: {sentence}")


def _same(a: Any, b: Any) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True)
    )
