"""One step of MLHF up to the update: the learned rules and the conjugate gradients between them.

Steps 1 to 6 of Chen, Lu and Fokoue 2018 (arXiv 1805.08462) on flat vectors; see
`MetaHessianFree` for the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer import coordinate_lstm, recorded_cg
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.lstm_inputs import lstm_inputs
from mlhf.meta_optimizer.rule import MetaState, Rule


class Proposal(NamedTuple):
    """A proposed update, and what its derivative needs."""

    start: tf.Tensor  # x₀
    start_residual: tf.Tensor  # r₀
    diagonal: tf.Tensor  # P
    delta: tf.Tensor  # δ, its constant part included
    delta_drive: tf.Tensor  # the damping LSTM's output before softplus
    diagonal_drive: tf.Tensor  # the preconditioner LSTM's output before softplus
    solution: tf.Tensor  # x_n
    trajectory: recorded_cg.Trajectory


def propose(
    rule: Rule,
    weights: dict[str, LSTMWeights],
    layout: Layout,
    curvature: Callable[[tf.Tensor], tf.Tensor],
    gradient: tf.Tensor,
    state: MetaState,
    unrolled: bool = False,
    guarded: bool = False,
) -> tuple[Proposal, MetaState]:
    """Solves (G + diag(δ)) x ≈ g with learned δ, start and preconditioner.

    Args:
      rule: The settings that say what is learned.
      weights: The LSTMs' weights by role.
      layout: The layout of the vectors.
      curvature: The product G v, [size] to [size].
      gradient: g, [size].
      state: The state after the step before.
      unrolled: Whether conjugate gradients are written out instead of looped.
      guarded: Whether a batch whose gradient or products are not finite is kept out of the state:
        its solution is zero, the state's vectors stay, and the LSTMs see zeros. Once in the state,
        such values would stay there. (Meta-training leaves such rollouts out itself.)

    Returns:
      The proposal, and the state for the next step.
    """
    lstm = dict(state.lstm)
    is_finite = tf.constant(True)
    if guarded:
        is_finite = tf.math.is_finite(tf.norm(gradient))
        gradient = tf.where(is_finite, gradient, tf.zeros_like(gradient))

    def run(role: str, *inputs: tf.Tensor) -> tf.Tensor:
        blocks, _ = lstm_inputs(rule, layout, inputs)
        output, lstm[role] = coordinate_lstm.apply(
            weights[role], layout.kind_of_block, blocks, state.lstm[role]
        )
        return tf.reshape(output, [layout.size])

    delta_drive = diagonal_drive = tf.zeros([0], layout.dtype)
    delta = tf.fill([layout.size], state.damping)
    if rule.d_use == "rnn":
        delta_drive = run("d", gradient, state.residual, state.solution)
        delta = rule.damping_scale * tf.nn.softplus(delta_drive) + state.damping

    def damped(v: tf.Tensor) -> tf.Tensor:
        return curvature(v) + delta * v

    if rule.x_use == "x":
        start = state.solution
    elif rule.x_use == "d":
        start = gradient
    else:
        start = run("x", gradient, state.residual, state.solution) * layout.mask()
    start_residual = gradient - damped(start)
    if guarded:
        is_finite &= tf.math.is_finite(tf.norm(start_residual))
        start_residual = tf.where(is_finite, start_residual, tf.zeros_like(start_residual))
    diagonal = tf.ones_like(gradient)
    if rule.y_use == "rnn":
        diagonal_drive = run("y", gradient, start_residual, start)
        diagonal = tf.nn.softplus(diagonal_drive)
    solution, trajectory = recorded_cg.solve_recorded(
        damped, start_residual, start, diagonal, rule.cg_iterations, unrolled
    )
    after = MetaState(solution, trajectory.residual, state.damping, lstm)
    if guarded:
        solution, after = _without_what_is_not_finite(is_finite, state, after)
    proposal = Proposal(
        start,
        start_residual,
        diagonal,
        delta,
        delta_drive,
        diagonal_drive,
        solution,
        trajectory,
    )
    return proposal, after


def _without_what_is_not_finite(
    is_finite: tf.Tensor, state: MetaState, after: MetaState
) -> tuple[tf.Tensor, MetaState]:
    """Returns the solution to take, and the state after it."""
    solution, residual = after.solution, after.residual
    is_finite &= tf.math.is_finite(tf.norm(solution)) & tf.math.is_finite(tf.norm(residual))
    after = after._replace(
        solution=tf.where(is_finite, solution, state.solution),
        residual=tf.where(is_finite, residual, state.residual),
    )
    return tf.where(is_finite, solution, tf.zeros_like(solution)), after


def shorten(
    proposal: Proposal, after: MetaState, gradient: tf.Tensor, longest: tf.Tensor
) -> tuple[Proposal, MetaState]:
    """Shortens a proposal's solution where it is too long; returns it and the state that follows.

    Args:
      proposal: A proposal with a solution x, A x = g - r.
      after: The state after it.
      gradient: g.
      longest: The bound on ‖x‖, a scalar; no bound where it is zero (where the parameters are).

    Returns:
      The proposal, and the state after it.
    """
    norm = tf.norm(proposal.solution)
    # Written so that a solution that is not finite is not shortened.
    share = tf.where((longest > 0) & (norm > longest), longest / norm, tf.ones_like(norm))

    def shorter(x: tf.Tensor, r: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The residual of s x is g - s A x.
        return tf.where(share < 1, share * x, x), tf.where(
            share < 1, gradient + share * (r - gradient), r
        )

    trajectory = proposal.trajectory
    x, r = shorter(proposal.solution, trajectory.residual)
    solution, residual = shorter(after.solution, after.residual)
    return (
        proposal._replace(solution=x, trajectory=trajectory._replace(residual=r)),
        after._replace(solution=solution, residual=residual),
    )


def proposal_specs(rule: Rule, layout: Layout) -> Proposal:
    """Returns the shapes of a proposal's tensors."""
    vector = tf.TensorSpec([layout.size], layout.dtype)
    nothing = tf.TensorSpec([0], layout.dtype)
    n = rule.cg_iterations
    return Proposal(
        start=vector,
        start_residual=vector,
        diagonal=vector,
        delta=vector,
        delta_drive=vector if rule.d_use == "rnn" else nothing,
        diagonal_drive=vector if rule.y_use == "rnn" else nothing,
        solution=vector,
        trajectory=recorded_cg.Trajectory(
            tf.TensorSpec([n, layout.size], layout.dtype),
            tf.TensorSpec([n, layout.size], layout.dtype),
            tf.TensorSpec([n + 1], layout.dtype),
            tf.TensorSpec([n], layout.dtype),
            vector,
            tf.TensorSpec([], tf.int32),
        ),
    )
