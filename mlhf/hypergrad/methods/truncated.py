"""Truncated reverse mode (Shaban et al. 2019): only the last K steps are differentiated.

For losses that are strongly convex near the end of training, with curvature of at least m, the bias
falls like (1 - ηm)^K. The online form differentiates after every K steps, moves the
hyperparameters, and continues the same training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mlhf.hypergrad import arguments, guards
from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.methods import assembly
from mlhf.hypergrad.methods.reverse import LARGEST_GROWTH, adjoint_norms
from mlhf.hypergrad.methods.unroll import BackwardPass, loops_of, run
from mlhf.hypergrad.methods.updates import Update, apply, as_update
from mlhf.hypergrad.result import Result
from mlhf.hypergrad.training import Training

INSTEAD = "reverse, reversible or forward"


@tf.autograph.experimental.do_not_convert
def truncated(
    problem: Any,
    weights: Any,
    hyperparameters: Any,
    *,
    window: int = 100,
    update: Update | float | Mapping[str, float] | None = None,
    per_step: bool | None = None,
    seed: int | tf.Tensor = 0,
    largest_growth: float | None = LARGEST_GROWTH,
) -> Result:
    """Differentiates through the last K steps, with K states in memory.

    Args:
      problem: A `Problem`.
      weights: As for `reverse`.
      hyperparameters: As for `reverse`. The gradient in a schedule is zero before the window, whose
        steps alone are differentiated.
      window: K, the number of steps to differentiate; with at least T the gradient is exact.
      update: The update of the online form, applied after every K steps of one training: a function
        from (hyperparameters, hypergradient) to new hyperparameters, a rate, or rates by name.
      per_step: As for `reverse`, for the steps of the window.
      seed: As for `reverse`.
      largest_growth: As for `reverse`.

    Returns:
      A `Result`; `train_loss` covers all steps, `per_step` and `adjoint_norm` the last window. With
      `update` it has the last hypergradient and the hyperparameters after the last move, and its
      `info["moves"]` lists the outer loss, hypergradient and hyperparameters of every move.

    Raises:
      DivergedError: If training is not finite, or the adjoint grows beyond `largest_growth`.
      RuntimeError: As for `reverse`.
      ValueError: If the arguments don't fit the problem, `window` < 1, a hyperparameter acts on the
        first state, or a schedule begins before the window, unless `update` is given.
    """
    window = arguments.as_count("window", window)
    training, weights, hyper = bind(problem, weights, hyperparameters)
    steps = training.steps
    if window < steps:
        guards.check_identifiable(training, "truncated", INSTEAD)
        if update is None:
            _check_schedules(training, window)
    seed = arguments.as_seed(seed)
    keep = assembly.keep_of(training, per_step)
    loops = loops_of(training, keep)
    state = run(training, loops.begin, weights, hyper, seed)
    if update is None:
        edges = [(max(0, steps - window), steps)]
    else:
        move = as_update(update)
        edges = [(start, min(start + window, steps)) for start in range(0, steps, window)]
    losses, history = [], []
    at = 0
    for start, stop in edges:
        if at < start:
            trained = run(
                training, loops.advance, state, hyper, seed, tf.constant(at), tf.constant(start)
            )
            guards.check_training(trained.bad_step)
            state = trained.state
            losses.append(trained.losses)
        trained, outer, pulled = run(
            training, loops.window, state, hyper, seed, tf.constant(start), tf.constant(stop)
        )
        guards.check_training(trained.bad_step)
        guards.check_replay(pulled.drift, training.flat.dtype)
        at, state = stop, trained.state
        losses.append(trained.losses)
        norms = adjoint_norms(training, outer, pulled, largest_growth)
        direct = [outer.direct[loss] for loss in training.problem.outer_losses]
        rows = _padded(training, pulled, start, stop)
        terms = [assembly.through_steps(training, pulled.sums, rows), direct]
        if start == 0:
            terms.append(loops.to_beginning(weights, hyper, seed, pulled.adjoints)[1])
        gradient = assembly.hypergradient(training, terms)
        if update is not None:
            hyper = apply(move, hyper, gradient)
            value = assembly.valid_loss(outer.values)
            history.append(
                {"valid_loss": value, "hypergradient": gradient, "hyperparameters": hyper}
            )
    return Result(
        hypergradient=gradient,
        valid_loss=assembly.valid_loss(outer.values),
        weights=training.flat.unflatten(state["weights"]),
        per_step=assembly.per_step(training, pulled.by_step, keep),
        state=assembly.public_state(training, state),
        train_loss=tf.concat(losses, 0),
        adjoint_norm=norms,
        hyperparameters=hyper,
        method="truncated",
        info={"moves": history} if update is not None else {},
    )


def _check_schedules(training: Training, window: int) -> None:
    """Raises ValueError if a hyperparameter is a schedule, whose first rows the window omits."""
    owners, scheduled = training.resolver.leaf_owner, training.resolver.scheduled
    late = sorted({owner for owner, by_step in zip(owners, scheduled, strict=True) if by_step})
    if late:
        steps = training.steps
        raise ValueError(
            f"Expected hyperparameters without a schedule, got one of {steps} steps for "
            f"{late}: a window of {window} would call the gradient of all rows before it "
            f"zero. Use {INSTEAD}, or a window of {steps}."
        )


def _padded(
    training: Training, pulled: BackwardPass, start: int, stop: int
) -> list[list[tf.Tensor]]:
    """Returns the contributions by step, for schedules with zeros outside the window."""
    return [
        [
            tf.pad(rows, [[start, training.steps - stop]] + [[0, 0]] * (rows.shape.rank - 1))
            if scheduled
            else rows
            for rows, scheduled in zip(all_rows, training.resolver.scheduled, strict=True)
        ]
        for all_rows in pulled.by_step
    ]
