"""Estimates what each method costs before it runs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.dynamics.momentum import Momentum
from mlhf.hypergrad.methods.implicit import loss_steps_of
from mlhf.hypergrad.methods.reverse import cuts
from mlhf.hypergrad.training import Training

# These numbers are those that `python -m benchmarks.hypergradients` measures.

# The cost of differentiating a step, in gradients of the training loss: the gradient itself and
# the backward pass through it, in processor time.
BACKWARD = 2.0
# The cost of a column of forward mode in one step, likewise.
COLUMN = 1.0
# The memory of `reversible` in bytes per weight: weights and velocity as integers, now and at the
# beginning, heads of the buffer, adjoints and floats.
REVERSIBLE_BYTES = 64
# The time for its integers and adjoints, in seconds per weight and step.
REVERSIBLE_SECONDS = 6e-8


class Cost(NamedTuple):
    """The memory and the time that a method needs."""

    memory: int  # in bytes, beyond that of the training
    time: float  # in gradients of the training loss, training included
    note: str


class Estimate(dict[str, Cost]):
    """The costs of methods by name, printed as a table."""

    def __str__(self) -> str:
        rows = [("method", "memory", "gradients", "note")]
        for name, cost in self.items():
            rows.append((name, _bytes(cost.memory), f"{cost.time:,.0f}", cost.note))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
            for row in rows
        )


def estimate(
    problem: Any,
    weights: Any,
    hyperparameters: Any,
    *,
    window: int = 100,
    solver_iterations: int = 20,
    points: int | None = None,
) -> Estimate:
    """Estimates what each method costs in memory and time, without training.

    Memory is in bytes, beyond the weights, the states of one step and its activations. Time is in
    gradients of the training loss (a training takes T of them); differentiating a step counts 2,
    and a column of forward mode 1. Costs that are not gradients are in the note: the integers of
    `reversible`, the disk.

    Args:
      problem: A `Problem`.
      weights: As for the methods.
      hyperparameters: As for the methods.
      window: The window of `truncated`.
      solver_iterations: The number of products with the Hessian that `implicit` takes.
      points: The number of points of `drmad`; T / 10 by default.

    Returns:
      An `Estimate`, a dictionary from the method's name to a `Cost`. The note names the
      hyperparameters whose gradient the method can't compute.

    Raises:
      ValueError: If the arguments don't fit the problem.
    """
    training, weights, hyper = bind(problem, weights, hyperparameters)
    steps, flat = training.steps, training.flat
    state = tf.nest.flatten(
        tf.function(training.initial_state, autograph=False)
        .get_concrete_function(weights, hyper, tf.TensorSpec([], tf.int32))
        .structured_outputs
    )
    a_state = sum(slot.shape.num_elements() * slot.dtype.size for slot in state)
    vector = flat.size * flat.dtype.size
    columns = sum(shape.num_elements() for shape in training.resolver.leaf_shapes)
    window = min(window, steps)
    points = points or max(1, steps // 10)
    pieces = len(cuts(steps))
    longest = math.ceil(steps / pieces)
    losses = len(problem.outer_losses)
    back = 1 + BACKWARD * (1 + 0.6 * (losses - 1))
    initial = sorted(training.dependencies.initial)
    own = sorted(training.dependencies.dynamics)
    no_initial = f"not for {initial}" if initial else ""
    found = Estimate()
    found["reverse"] = Cost(steps * a_state, steps * back, "exact")
    found["reverse, checkpoints"] = Cost(
        (pieces + 2 * longest) * a_state, steps * (back + 1), "exact"
    )
    found["reverse, disk"] = Cost(
        4 * longest * a_state,
        steps * back,
        f"exact; {_bytes(steps * a_state)} written and read",
    )
    bits = _bits(training, hyper)
    if bits is not None:
        seconds = REVERSIBLE_SECONDS * steps * flat.size * losses
        found["reversible"] = Cost(
            int(flat.size * (REVERSIBLE_BYTES + bits / 8)),
            steps * back,
            f"exact; and about {seconds:.2g} s for integers",
        )
    found["truncated"] = Cost(
        window * a_state,
        steps + window * (back - 1),
        f"the last {window} steps; {no_initial}".rstrip("; "),
    )
    found["forward"] = Cost(
        columns * a_state, steps * (1 + COLUMN * columns), f"exact; {columns} columns"
    )
    found["rtho"] = Cost(
        columns * a_state, steps * (1 + COLUMN * columns), f"one training; {columns} columns"
    )
    if bits is not None:
        found["drmad"] = Cost(2 * vector, steps + points * (back - 1), "a direction, no magnitude")
    lost = sorted({*initial, *own})
    # A product is the mean over several batches, and so are the gradients before and after.
    batches = len(loss_steps_of(training, None))
    found["implicit"] = Cost(
        10 * vector,
        steps + (solver_iterations + 2) * BACKWARD * batches,
        f"where training has converged; not for {lost}" if lost else "where training has converged",
    )
    return found


def _bits(training: Training, hyper: Any) -> float | None:
    """Returns the bits per weight that multiplying by the momentum of all steps costs."""
    if not isinstance(training.dynamics, Momentum):
        return None
    value = hyper.get("momentum")
    if value is None:
        decays = np.full([training.steps], training.dynamics.constants["momentum"])
    else:
        if not hasattr(tf.nest.flatten(value)[0], "numpy"):
            return None
        decays = np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(value)])
    mean = np.mean(np.log2(1 / np.maximum(decays, 2.0**-16)))
    return float(training.steps * mean)


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
