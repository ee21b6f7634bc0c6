"""Plain training with the dynamics of a problem."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mlhf.hypergrad import arguments, guards
from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.methods import assembly
from mlhf.hypergrad.methods.unroll import loops_of, run
from mlhf.hypergrad.result import Result


@tf.autograph.experimental.do_not_convert
def train(problem: Any, weights: Any, hyperparameters: Any, *, seed: int | tf.Tensor = 0) -> Result:
    """Trains without differentiating, to the same bits as every method does.

    Args:
      problem: A `Problem`.
      weights: As for `reverse`.
      hyperparameters: As for `reverse`.
      seed: As for `reverse`.

    Returns:
      A `Result` whose hypergradient is empty.

    Raises:
      DivergedError: If training is not finite.
      ValueError: If the arguments don't fit the problem.
    """
    training, weights, hyper = bind(problem, weights, hyperparameters)
    seed = arguments.as_seed(seed)
    loops = loops_of(training, assembly.keep_of(training, None))
    state = run(training, loops.begin, weights, hyper, seed)
    trained = run(
        training,
        loops.advance,
        state,
        hyper,
        seed,
        tf.constant(0),
        tf.constant(training.steps),
    )
    guards.check_training(trained.bad_step)
    outer, _ = run(training, loops.outer, trained.state, hyper, seed)
    return Result(
        hypergradient={},
        valid_loss=assembly.valid_loss(outer.values),
        weights=training.flat.unflatten(trained.state["weights"]),
        state=assembly.public_state(training, trained.state),
        train_loss=trained.losses,
        hyperparameters=hyper,
        method="train",
    )
