"""Truncated reverse mode (Shaban et al. 2019): only the last K steps are differentiated.

For losses that are strongly convex around the end the bias falls like (1 - ηm)^K. The online form
differentiates every K steps, moves the hyperparameters, and goes on without beginning again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mlhf.hypergrad import arguments, guards
from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.methods import assembly
from mlhf.hypergrad.methods.reverse import LARGEST_GROWTH, adjoint_norms
from mlhf.hypergrad.methods.unroll import Pulled, loops_of, run
from mlhf.hypergrad.methods.updates import Update, apply, as_update
from mlhf.hypergrad.result import Result

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
      hyperparameters: As for `reverse`. In a schedule the rows before the window are zero: the
        steps that they belong to are not differentiated.
      window: K; at least T is the exact gradient.
      update: Online: from (hyperparameters, hypergradient) to new hyperparameters, or a rate, or
        rates by name, applied after every K steps of one training.
      per_step: As for `reverse`; the steps of the window.
      seed: As for `reverse`.
      largest_growth: As for `reverse`.

    Returns:
      A `Result`; `train_loss` covers all steps, `per_step` and `adjoint_norm` the last window.
      Online: the last hypergradient, the hyperparameters after the last move, and in `info` the
      outer losses, hypergradients and hyperparameters of all moves.

    Raises:
      DivergedError: If training is not finite, or the adjoint grows beyond `largest_growth`.
      RuntimeError: As for `reverse`.
      ValueError: For what `Problem.bind` refuses, `window` < 1, a hyperparameter of the first
        state, or a schedule that the window does not reach the begin of, unless `update` is given.
    """
    window = arguments.as_count("window", window)
    training, weights, hyper = bind(problem, weights, hyperparameters)
    steps = training.steps
    if window < steps:
        guards.check_identifiable(training, "truncated", INSTEAD)
        late = sorted(
            {
                owner
                for owner, scheduled in zip(
                    training.resolver.leaf_owner, training.resolver.scheduled, strict=True
                )
                if scheduled
            }
        )
        if late and update is None:
            raise ValueError(
                f"Expected hyperparameters without a schedule, got one of {steps} steps for "
                f"{late}: a window of {window} would call the gradient of all rows before it "
                f"zero. Use {INSTEAD}, or a window of {steps}."
            )
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


def _padded(training, pulled: Pulled, start: int, stop: int):
    """The rows of schedules, zeros where the window does not reach."""
    return [
        [
            tf.pad(rows, [[start, training.steps - stop]] + [[0, 0]] * (rows.shape.rank - 1))
            if scheduled
            else rows
            for rows, scheduled in zip(all_rows, training.resolver.scheduled, strict=True)
        ]
        for all_rows in pulled.by_step
    ]
