"""Real-time hyperparameter optimization (Franceschi et al. 2017, section 3.3).

Forward mode without waiting for the end: after every few steps, the hypergradient of the training
so far moves the hyperparameters, and training continues from the current weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mlhf.hypergrad import arguments, guards
from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.methods import assembly
from mlhf.hypergrad.methods.forward import forward_loops
from mlhf.hypergrad.methods.unroll import run
from mlhf.hypergrad.methods.updates import Update, apply, as_update
from mlhf.hypergrad.result import Result


@tf.autograph.experimental.do_not_convert
def rtho(
    problem: Any,
    weights: Any,
    hyperparameters: Any,
    *,
    update: Update | float | Mapping[str, float],
    every: int = 100,
    warm_restart: bool = False,
    seed: int | tf.Tensor = 0,
    together: int = 16,
) -> Result:
    """Trains once, and moves the hyperparameters on the way.

    It costs as much as `forward`. A learning rate that is moved this way needs a small outer rate
    (1e-5 to 1e-3) and a projection: the derivative ignores that earlier steps had other
    hyperparameters.

    Args:
      problem: A `Problem`, which is trained once for its T steps.
      weights: As for `forward`.
      hyperparameters: As for `forward`.
      update: A function from (hyperparameters, hypergradient) to new hyperparameters, projections
        included; or the rate of plain gradient descent, one for all or by name.
      every: The number of steps between moves of the hyperparameters.
      warm_restart: Whether the derivative begins again at zero after each move, as if the weights
        were constants, so that it is that of the last `every` steps only.
      seed: As for `forward`.
      together: As for `forward`.

    Returns:
      A `Result` with the last hypergradient and the hyperparameters after the last move; its
      `info["moves"]` lists the outer loss, hypergradient and hyperparameters of every move.

    Raises:
      DivergedError: If training or the derivative is not finite.
      ValueError: If the arguments don't fit the problem, `every` < 1, or with `warm_restart` a
        hyperparameter acts on the first state.
    """
    every = arguments.as_count("every", every)
    move = as_update(update)
    training, weights, hyper = bind(problem, weights, hyperparameters)
    if warm_restart:
        guards.check_identifiable(training, "rtho with warm_restart=True", "forward or rtho")
    seed = arguments.as_seed(seed)
    loops = forward_loops(training, together)
    state, tangents = run(training, loops.begin, weights, hyper, seed)
    losses, norms, history = [], [], []
    for start in range(0, training.steps, every):
        stop = min(start + every, training.steps)
        if warm_restart and start:
            tangents = tf.nest.map_structure(tf.zeros_like, tangents)
        passed = run(
            training,
            loops.advance,
            state,
            tangents,
            hyper,
            seed,
            tf.constant(start),
            tf.constant(stop),
        )
        guards.check_training(passed.bad_step)
        state, tangents = passed.state, passed.tangents
        outer = run(training, loops.outer, state["weights"], hyper, seed)
        gradient = loops.hypergradient(tangents, outer)
        guards.check_finite(gradient, "rtho")
        hyper = apply(move, hyper, gradient)
        value = assembly.valid_loss(outer.values)
        history.append({"valid_loss": value, "hypergradient": gradient, "hyperparameters": hyper})
        losses.append(passed.losses)
        norms.append(passed.norms)
    return Result(
        hypergradient=gradient,
        valid_loss=value,
        weights=training.flat.unflatten(state["weights"]),
        state=assembly.public_state(training, state),
        train_loss=tf.concat(losses, 0),
        hyperparameters=hyper,
        method="rtho",
        info={
            "jacobian_norm": loops.norms_by_name(tf.concat(norms, 0)),
            "moves": history,
        },
    )
