"""DrMAD (Fu et al. 2016, arXiv 1601.00917): backwards along a straight line.

The reverse pass of momentum needs the weights of every step. DrMAD keeps the first and the last,
and replaces those of training by points w(β) = (1-β) w_0 + β w_T on the line between them:

    for the points from the last to the first, with the batch and the hyperparameters of some step
      dv += m dw;  dw += H(w(β)) p dv;  dλ += ∂<∇L(w(β)), p dv>/∂λ;  dv = μ dv

It is not an approximation that gets better with more work: with few points, as its authors run it
(T/10), it has about the direction of a truncated reverse pass of as many steps; its magnitude means
nothing, and with as many points as steps it diverges where the line crosses negative curvature. If
the outer loss reads the hyperparameters directly, compare with that term alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count
from mlhf.hypergrad import arguments, guards
from mlhf.hypergrad.binding import bind, check_problem
from mlhf.hypergrad.dynamics.base import GradientDescent
from mlhf.hypergrad.dynamics.momentum import FORMS, Momentum
from mlhf.hypergrad.exact_arithmetic.factors import Factors
from mlhf.hypergrad.exact_arithmetic.momentum_adjoint import RATE, MomentumAdjoint
from mlhf.hypergrad.methods import unroll
from mlhf.hypergrad.methods.gathered import Gathered, backward_pass
from mlhf.hypergrad.methods.reverse import finish
from mlhf.hypergrad.methods.step_functions import StepFunctions
from mlhf.hypergrad.outer import sharing
from mlhf.hypergrad.result import Result
from mlhf.hypergrad.training import Training

BETAS = ("inner", "paper")
BATCHES = ("first", "strided")


class DrmadDivergedWarning(UserWarning):
    """Given when the adjoint grew so much along the line that the hypergradient means nothing."""


def drmad(
    problem: Any,
    weights: Any,
    hyperparameters: Any,
    *,
    points: int | None = None,
    betas: str | Sequence[float] | Callable[[int], Sequence[float]] = "inner",
    batches: str | Sequence[int] = "first",
    share: str | None = None,
    sign: bool = False,
    seed: int | tf.Tensor = 0,
    warn_growth: float = 1e3,
) -> Result:
    """Differentiates along the straight line from the first weights to the last. Not exact.

    Args:
      problem: A `Problem` with `Momentum` of the form M1, M2 or M4, or `GradientDescent` without
        backtracking, as its dynamics.
      weights: As for `reverse`.
      hyperparameters: A mapping, as `Problem` describes. The gradient in the dynamics' own takes
        the velocity from the line: the distance that a step covers on it. Schedules need as many
        points as steps.
      points: The number of points on the way back, N; by default a tenth of the steps, as in the
        authors' code.
      betas: The places of the points, from the first to the last: `"inner"` (evenly from 0.001 to
        0.999, as in the authors' code), `"paper"` (0, 1/N, ... 1 - 1/N), N numbers, or a function
        of N.
      batches: The steps whose batches and hyperparameters are used: `"first"` (steps 0 ... N-1, as
        in the authors' code), `"strided"` (spread over training), or N steps.
      share: The sharing, `"all"`, `"layers"` or `"units"`, by which the function `share` averages
        gradients that are structured like the weights.
      sign: Whether only the sign of these averages is returned.
      seed: As for `reverse`.
      warn_growth: The growth of ‖∂E/∂w‖ along the line, as a multiple of its start, above which a
        `DrmadDivergedWarning` is given.

    Returns:
      A `Result`, with `adjoint_norm` by point. Its `info` has `betas`, `steps` (those whose batches
      were used) and `adjoint_growth`, the largest over the outer losses. `per_step` has the
      contributions to schedules.

    Raises:
      DivergedError: If training or the adjoint is not finite.
      ValueError: If the arguments don't fit the problem, the dynamics are others, a schedule has
        fewer points than steps, or an option is invalid.
    """
    form = _form(problem)
    training, weights, hyper = bind(problem, weights, hyperparameters)
    count = max(1, training.steps // 10) if points is None else check_count("points", points)
    line = _line(betas, count)
    steps = _steps(batches, count, training)
    if share is not None:
        check_choice("share", share, sharing.SHARINGS)
    if sign and share is None:
        raise ValueError('Expected share= together with sign=True, got None; take "units".')
    seed = arguments.as_seed(seed)

    keep = [False] * len(training.resolver.leaf_names)
    loops = unroll.loops_of(training, keep)
    first = unroll.run(training, loops.begin, weights, hyper, seed)
    start, stop = tf.constant(0), tf.constant(training.steps)
    trained = unroll.run(training, loops.advance, first, hyper, seed, start, stop)
    guards.check_training(trained.bad_step)
    outer, _ = unroll.run(training, loops.outer, trained.state, hyper, seed)

    ends = [state["weights"].numpy().astype(np.float64) for state in (first, trained.state)]
    factors = Factors(training, hyper)
    functions = StepFunctions(training, hyper, seed)
    adjoints = [
        MomentumAdjoint(FORMS[form], factors, hyper, outer.in_weights[loss].numpy())
        for loss in problem.outer_losses
    ]
    gathered = [Gathered(training, tf.nest.flatten(hyper), keep) for _ in adjoints]
    # The distance that a step of training covers on the line.
    distance = (ends[1] - ends[0]) / training.steps
    moves = distance != 0
    for beta, step in reversed(list(zip(line, steps, strict=True))):
        rate, momentum = factors.at(RATE, step), factors.at("momentum", step)
        move = [FORMS[form].move(eta) for eta in rate]
        push = [FORMS[form].push(eta, mu) for eta, mu in zip(rate, momentum, strict=True)]
        # v = Δw / m; a step of no length does not determine the velocity.
        inverse = [
            np.divide(1.0, m, out=np.zeros_like(m), where=m != 0) for m in map(np.array, move)
        ]
        velocity = factors.times(inverse, distance)
        point = (1 - beta) * ends[0] + beta * ends[1]
        for adjoint, contributions in zip(adjoints, gathered, strict=True):
            adjoint.through_move(move, velocity)
            product = functions.products(point, adjoint.direction(push), step)
            gradient = product.gradient.numpy().astype(np.float64)
            own = adjoint.through_push(momentum, velocity, gradient, product.in_weights.numpy())
            adjoint.bound(moves)
            contributions.add(product.in_rows, own, adjoint.norm, adjoint.norm_over(moves))

    dtype = training.flat.dtype
    back = backward_pass(gathered, [_like(adjoint.state(dtype), first) for adjoint in adjoints])
    result = finish(
        "drmad", training, weights, hyper, seed, trained, outer, back, keep, largest_growth=None
    )
    growth = _growth(result.adjoint_norm, back.moving)
    if not growth <= warn_growth:
        _warn(growth, count)
    if share is not None:
        for name, value in result.hypergradient.items():
            if training.flat.matches(value):
                result.hypergradient[name] = sharing.share(value, share, sign=sign)
    result.info.update(betas=line, steps=steps, adjoint_growth=growth)
    return result


def _warn(growth: float, count: int) -> None:
    warnings.warn(
        f"The adjoint grew {growth:.2g}-fold along the line of DrMAD: the line runs over "
        "negative curvature, and the hypergradient means nothing, its sign included. Take "
        f"fewer points than {count}, or `truncated` or `reversible`.",
        DrmadDivergedWarning,
        stacklevel=3,
    )


def _form(problem: Any) -> str:
    """Returns the form of momentum that a problem trains with, after checking its dynamics."""
    check_problem(problem)
    dynamics = problem.dynamics
    if not tf.executing_eagerly():
        raise ValueError("Expected drmad to be called eagerly, got it inside a tf.function.")
    if isinstance(dynamics, GradientDescent):
        if dynamics.backtracking:
            raise ValueError(
                "Expected GradientDescent without backtracking as the dynamics of DrMAD, got "
                f"{dynamics!r}: the way back would take steps of the whole learning rate, not "
                "those that the search shrank. Use `reverse`, `forward` or `truncated`, which "
                "know them."
            )
        # v' = -η g, w' = w + v'.
        return "M4"
    if isinstance(dynamics, Momentum) and dynamics.form in FORMS and not dynamics.nesterov:
        return dynamics.form
    raise ValueError(
        "Expected GradientDescent, or Momentum of the form M1, M2 or M4 without Nesterov, as the "
        f"dynamics of DrMAD, got {dynamics!r}. Use `truncated` or `reverse`."
    )


def _line(betas: Any, count: int) -> list[float]:
    """Returns the places of the points on the line."""
    if isinstance(betas, str):
        check_choice("betas", betas, BETAS)
        if betas == "paper":
            return [k / count for k in range(count)]
        return np.linspace(0.001, 0.999, count).tolist()
    line = [float(beta) for beta in (betas(count) if callable(betas) else betas)]
    if len(line) != count or not all(np.isfinite(line)):
        raise ValueError(f"Expected {count} finite betas, one per point, got {line}.")
    return line


def _steps(batches: Any, count: int, training: Training) -> list[int]:
    """Returns the step whose batch and hyperparameters each point uses."""
    total, scheduled = training.steps, training.resolver.scheduled
    if isinstance(batches, str):
        check_choice("batches", batches, BATCHES)
        if batches == "first":
            steps = [k % total for k in range(count)]
        else:
            steps = [k * total // count for k in range(count)]
    else:
        steps = [int(step) for step in batches]
        if len(steps) != count or not all(0 <= step < total for step in steps):
            raise ValueError(
                f"Expected {count} steps from 0 to {total - 1} as batches=, got {steps}."
            )
    if any(scheduled) and steps != list(range(total)):
        names = sorted(
            {o for o, s in zip(training.resolver.leaf_owner, scheduled, strict=True) if s}
        )
        raise ValueError(
            f"Expected points={total}, all steps in order, for the schedules {names}, got {count}: "
            "the rows without a point would have no gradient."
        )
    return steps


def _like(adjoint: Any, state: Any) -> Any:
    return {name: adjoint[name] for name in state}


def _growth(norms: dict[str, tf.Tensor], moving: Sequence[tf.Tensor]) -> float:
    """Returns the largest growth of an adjoint on the line, over the weights that move on it."""
    growth = 0.0
    for norm, some in zip(norms.values(), moving, strict=True):
        last, largest = float(norm[-1]), float(tf.reduce_max(some))
        if largest:
            growth = max(growth, largest / last if last else float("inf"))
    return growth
