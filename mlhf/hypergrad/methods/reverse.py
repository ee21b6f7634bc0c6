"""Reverse-mode hypergradients from stored states (Franceschi et al. 2017, section 3.1).

With s_t = Φ_t(s_{t-1}, λ), A_t = ∂Φ_t/∂s and B_t = ∂Φ_t/∂λ at s_{t-1}, and α_T = ∂E/∂s_T:

    for t = T ... 1:  dλ += B_tᵀ α_t,  α_{t-1} = A_tᵀ α_t         then dλ += E_λ + Φ₀'ᵀ α_0

A step is computed again from its stored state, so that T states are stored and no graph.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.hypergrad import arguments, guards
from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.dynamics.base import State
from mlhf.hypergrad.hyperparameters import Rows
from mlhf.hypergrad.methods import assembly
from mlhf.hypergrad.methods.unroll import BackwardPass, Loops, Trained, loops_of, run
from mlhf.hypergrad.result import Result
from mlhf.hypergrad.training import Outer, Training

STORAGES = ("memory", "checkpoints", "disk")
LARGEST_GROWTH = 1e6


@tf.autograph.experimental.do_not_convert
def reverse(
    problem: Any,
    weights: Any,
    hyperparameters: Any,
    *,
    storage: str = "memory",
    per_step: bool | None = None,
    seed: int | tf.Tensor = 0,
    directory: str | os.PathLike[str] | None = None,
    largest_growth: float | None = LARGEST_GROWTH,
) -> Result:
    """Differentiates through the whole training; exact for every hyperparameter.

    Args:
      problem: A `Problem`.
      weights: The weights that training begins with: a structure of tensors or a built Keras model;
        None if the problem or the hyperparameters make them.
      hyperparameters: A mapping, as `Problem` describes.
      storage: The place of the T states: `"memory"`; `"checkpoints"`, √T of them in memory while
        the others are computed again, which costs another training; or `"disk"`, in files of √T
        states (not inside a `tf.function`).
      per_step: Which hyperparameters' contributions by step are in `Result.per_step`: those of all
        (True), of schedules only (False), or also of hyperparameters of one number (None).
      seed: An int32, passed to losses and suppliers with a parameter of that name.
      directory: The directory in which `"disk"` makes a folder and removes it at the end; by
        default the system's directory for temporary files.
      largest_growth: The largest growth of ‖∂E/∂w_t‖ on the way back; None for any.

    Returns:
      A `Result`.

    Raises:
      DivergedError: If training is not finite, or the adjoint grows beyond `largest_growth`.
      RuntimeError: If a step leads elsewhere when it is computed again, because the loss is not a
        pure function of the step.
      ValueError: If the arguments don't fit the problem, or the storage is unknown.
    """
    if storage not in STORAGES:
        raise ValueError(f"Expected storage= one of {STORAGES}, got {storage!r}.")
    if storage == "disk" and not tf.executing_eagerly():
        raise ValueError(
            'Expected storage="disk" outside a tf.function, got it inside one; use "checkpoints".'
        )
    training, weights, hyper = bind(problem, weights, hyperparameters)
    seed = arguments.as_seed(seed)
    keep = assembly.keep_of(training, per_step)
    loops = loops_of(training, keep)
    first = run(training, loops.begin, weights, hyper, seed)
    if storage == "memory":
        trained, outer, pulled = run(
            training,
            loops.window,
            first,
            hyper,
            seed,
            tf.constant(0),
            tf.constant(training.steps),
        )
        guards.check_training(trained.bad_step)
    elif storage == "checkpoints":
        trained, outer, pulled = _with_checkpoints(training, loops, first, hyper, seed)
    else:
        with tempfile.TemporaryDirectory(dir=directory, prefix="states-") as folder:
            trained, outer, pulled = _on_disk(training, loops, first, hyper, seed, folder)
    guards.check_replay(pulled.drift, training.flat.dtype)
    return finish(
        "reverse", training, weights, hyper, seed, trained, outer, pulled, keep, largest_growth
    )


def finish(
    method: str,
    training: Training,
    weights: Any,
    hyper: Rows,
    seed: tf.Tensor,
    trained: Trained,
    outer: Outer,
    pulled: BackwardPass,
    keep: Sequence[bool],
    largest_growth: float | None,
) -> Result:
    """Adds the terms of the beginning and the end to a whole pass back, and returns the result."""
    losses = list(training.problem.outer_losses)
    norms = adjoint_norms(training, outer, pulled, largest_growth)
    loops = loops_of(training, keep)
    in_weights, in_hyper, first = loops.to_beginning(weights, hyper, seed, pulled.adjoints)
    if training.problem.initial is not None:
        again = loops.begin(weights, hyper, seed)["weights"]
        guards.check_initial(tf.reduce_max(tf.abs(first - again)))
    terms = [
        assembly.through_steps(training, pulled.sums, pulled.by_step),
        [outer.direct[loss] for loss in losses],
        in_hyper,
    ]
    gradients = dict(zip(losses, in_weights, strict=True))
    return Result(
        hypergradient=assembly.hypergradient(training, terms),
        valid_loss=assembly.valid_loss(outer.values),
        weights=training.flat.unflatten(trained.state["weights"]),
        per_step=assembly.per_step(training, pulled.by_step, keep),
        state=assembly.public_state(training, trained.state),
        train_loss=trained.losses,
        adjoint_norm=norms,
        hyperparameters=hyper,
        method=method,
        info={"initial_weights_gradient": assembly.valid_loss(gradients)},
    )


def adjoint_norms(
    training: Training, outer: Outer, pulled: BackwardPass, largest_growth: float | None
) -> dict[str, tf.Tensor]:
    """Returns ‖∂E/∂w_t‖ for t = 0 ... T by outer loss, after checking its growth."""
    growth = {
        loss: guards.Growth(
            tf.concat([pulled.norms[k], [tf.norm(outer.in_weights[loss])]], 0),
            pulled.moving[k],
            # A hyperparameter that acts on the first state takes the adjoint in all weights.
            None if training.dependencies.initial else pulled.shares[k],
        )
        for k, loss in enumerate(training.problem.outer_losses)
    }
    guards.check_adjoints(growth, largest_growth)
    return {loss: adjoint.norms for loss, adjoint in growth.items()}


def cuts(steps: int, pieces: int | None = None) -> list[tuple[int, int]]:
    """Returns [start, stop) of segments of training, by default √T segments of about √T steps."""
    pieces = pieces or math.isqrt(steps - 1) + 1 if steps > 1 else 1
    edges = [round(i * steps / pieces) for i in range(pieces + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def join(segments: list[BackwardPass]) -> BackwardPass:
    """Joins the passes back through segments, in the order of time, into one pass."""
    if len(segments) == 1:
        return segments[0]

    def concat(*parts: tf.Tensor) -> tf.Tensor:
        return tf.concat(parts, 0)

    return BackwardPass(
        adjoints=segments[0].adjoints,
        sums=tf.nest.map_structure(lambda *parts: tf.add_n(parts), *[s.sums for s in segments]),
        by_step=tf.nest.map_structure(concat, *[s.by_step for s in segments]),
        norms=tf.nest.map_structure(concat, *[s.norms for s in segments]),
        moving=tf.nest.map_structure(concat, *[s.moving for s in segments]),
        shares=tf.nest.map_structure(concat, *[s.shares for s in segments]),
        drift=tf.reduce_max(tf.stack([s.drift for s in segments])),
    )


def _with_checkpoints(
    training: Training, loops: Loops, state: State, hyper: Rows, seed: tf.Tensor
) -> tuple[Trained, Outer, BackwardPass]:
    begins, losses = [], []
    segments = cuts(training.steps)
    for start, stop in segments:
        begins.append(state)
        trained = run(
            training, loops.advance, state, hyper, seed, tf.constant(start), tf.constant(stop)
        )
        guards.check_training(trained.bad_step)
        state = trained.state
        losses.append(trained.losses)
    outer, adjoints = run(training, loops.outer, state, hyper, seed)
    pulled: list[BackwardPass] = []
    for (start, stop), begin in reversed(list(zip(segments, begins, strict=True))):
        part = run(
            training,
            loops.segment,
            begin,
            adjoints,
            hyper,
            seed,
            tf.constant(start),
            tf.constant(stop),
        )
        adjoints = part.adjoints
        pulled.insert(0, part)
    return trained._replace(state=state, losses=tf.concat(losses, 0)), outer, join(pulled)


def _on_disk(
    training: Training, loops: Loops, state: State, hyper: Rows, seed: tf.Tensor, folder: str
) -> tuple[Trained, Outer, BackwardPass]:
    losses = []
    segments = cuts(training.steps)
    for number, (start, stop) in enumerate(segments):
        trained, states = run(
            training, loops.record, state, hyper, seed, tf.constant(start), tf.constant(stop)
        )
        guards.check_training(trained.bad_step)
        for name, slot in states.items():
            np.save(os.path.join(folder, f"{name}-{number}.npy"), slot.numpy())
        state = trained.state
        losses.append(trained.losses)
    outer, adjoints = run(training, loops.outer, state, hyper, seed)
    last = state
    pulled: list[BackwardPass] = []
    for number, (start, _) in reversed(list(enumerate(segments))):
        states = {}
        for name in state:
            path = os.path.join(folder, f"{name}-{number}.npy")
            states[name] = tf.constant(np.load(path))
            os.remove(path)
        part = run(training, loops.pull, states, last, adjoints, hyper, seed, tf.constant(start))
        last = {name: slot[0] for name, slot in states.items()}
        adjoints = part.adjoints
        pulled.insert(0, part)
    return trained._replace(state=state, losses=tf.concat(losses, 0)), outer, join(pulled)
