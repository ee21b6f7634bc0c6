"""A rollout of MLHF and the exact gradient of its surrogate in the meta-parameters.

Forward, T steps of training: one loop, which keeps a row of tensors per step. Backward, the same
steps in reverse, two cotangents at a time: that of the mean of h, from which the preconditioner and
the start learn, and that of the meta loss, from which the damping learns. `Rollout.gradient` says
what passes gradients and what is constant. The network's own derivatives stay first-order: the
curvature of a step is built at constant weights, so that the derivative of a product with it is the
same product again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer import coordinate_lstm, metrics
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.proposal import Proposal, proposal_specs, propose
from mlhf.meta_optimizer.rule import MetaState, Rule
from mlhf.meta_training.scan import Rows, scan
from mlhf.meta_training.step_back import StepBack, flows
from mlhf.objective import Objective
from mlhf.optimizers.curvature_shares import curvature_of, linearize_shares
from mlhf.optimizers.damping import adapt_damping, model_decrease

META_LOSS_WEIGHT = 10.0
NOISE = 0.02
LONGEST_STEP = 0.25
TINY = 1e-20


class Carry(NamedTuple):
    """The point that a rollout hands on to the next."""

    weights: tf.Tensor  # w, flat
    model_state: Any
    state: MetaState


class Row(NamedTuple):
    """The tensors of a step that its derivative needs."""

    weights: tf.Tensor  # w_t
    model_state: Any  # before the step
    state: MetaState  # before the step
    gradient: tf.Tensor  # g_t
    proposal: Proposal
    loss: tf.Tensor  # L_t
    loss_after: tf.Tensor  # L'_t, the same batch at w_{t+1}
    gradient_after: tf.Tensor  # of L'_t at w_{t+1}
    h: tf.Tensor
    descent: tf.Tensor  # <g, x_n>


class MetaGradient(NamedTuple):
    """The gradient of a rollout, and its metrics."""

    gradient: dict[str, LSTMWeights]  # by role
    metrics: dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Rollout:
    """T steps of training by a rule, and their gradient in it; for use in a traced function.

    Attributes:
      rule: The settings that say what is learned.
      weights: The LSTMs' weights by role.
      layout: The layout of the flat vectors.
      static: `Objective.static`.
      batches: Inputs and targets with a leading axis of T.
      learning_rate: lr, a scalar.
      seed: The seed of the noise, int32 [2].
      unrolled: Whether time and conjugate gradients are written out instead of looped.
    """

    rule: Rule
    weights: dict[str, LSTMWeights]
    layout: Layout
    static: tuple[Any, ...]
    batches: tuple[Any, ...]
    learning_rate: tf.Tensor
    seed: tf.Tensor
    unrolled: bool = False

    @property
    def length(self) -> int:
        """T, the number of steps."""
        return tf.nest.flatten(self.batches)[0].shape[0]

    def run(self, carry: Carry) -> tuple[Carry, Rows]:
        """Trains for T steps and keeps what the meta-gradient needs.

        Args:
          carry: The point to start at.

        Returns:
          The carry for the next rollout, and the rows.
        """
        specs = _row_specs(self.rule, self.layout, carry)
        return scan(self._step, carry, self.length, specs, unrolled=self.unrolled)

    def gradient(self, rows: Rows) -> MetaGradient:
        """Differentiates both meta losses.

        With h_t = -<g, x_n> / sqrt<x_n, A x_n> and m_t = (L'_t + L_{t+1})/2 - L_t, the start and
        the preconditioner get the gradient of mean(h), the damping that of 10 · Σ softmax(m)_t m_t,
        the softmax held constant. Constant in step t are g_t, r₋, x₋, G, ‖w_t‖, the noise, and w_t
        as the base of the update; only through the LSTMs' states do gradients cross time.

        Args:
          rows: The rows that `run` kept.

        Returns:
          The gradient by role, and metrics.
        """
        rule, weights, layout, length = self.rule, self.weights, self.layout, self.length
        losses, after = rows.column("loss"), rows.column("loss_after")
        same, following = after[:-1] - losses[:-1], losses[1:] - losses[:-1]
        gains = 0.5 * (same + following)
        # The last step has no next batch and no share in the meta loss.
        shares = tf.concat(
            [tf.nn.softmax(gains) if length > 1 else gains, tf.zeros_like(losses[:1])], 0
        )

        def body(i: Any, carry: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            gradients, d_states, next_gradient = carry
            row = rows.read(i)
            damped, d_solution = self._d_solution(i, row, shares[i], next_gradient)
            gradients, d_states = StepBack(
                rule, weights, layout, row, damped, d_solution, self.unrolled
            ).take(gradients, d_states)
            return (gradients, d_states, row.gradient), ()

        zeros = {
            role: LSTMWeights(*[tf.zeros_like(value) for value in weights[role]])
            for role in rule.roles
        }
        state_zeros = coordinate_lstm.zero_state(layout.blocks, layout.block, layout.dtype)
        d_states = {key: state_zeros for key in flows(rule)}
        start = (zeros, d_states, tf.zeros([layout.size], layout.dtype))
        (gradients, _, _), _ = scan(body, start, length, unrolled=self.unrolled, reverse=True)
        shares = shares[:-1]
        scalars = {
            "hession_loss": tf.reduce_mean(rows.column("h")),
            "meta_loss": tf.reduce_sum(shares * gains),
            "meta_loss_same_batch": tf.reduce_sum(shares * same),
            "meta_loss_next_batch": tf.reduce_sum(shares * following),
            "base_loss": losses[0],
            "loss": losses[-1],
        }
        return MetaGradient(gradients, scalars)

    def metrics_of_last(self, rows: Rows) -> dict[str, tf.Tensor]:
        """Returns the metrics of the last step that cost another curvature product.

        Args:
          rows: The rows that `run` kept.

        Returns:
          The metrics of `mlhf.meta_optimizer.metrics.of_proposal`, and `w_norm`.
        """
        last = self.length - 1
        row = rows.read(last)
        objective = self._objective(row.model_state, last)
        linearized = objective.first_examples(self.rule.curvature_share).linearize(
            self.layout.unflatten(row.weights)
        )
        product = curvature_of(linearized, self.layout)(row.gradient)
        product = product + row.proposal.delta * row.gradient
        return {
            **metrics.of_proposal(row.gradient, row.proposal, product),
            "w_norm": tf.norm(row.weights),
        }

    def _step(self, t: Any, carry: Carry) -> tuple[Carry, Row]:
        rule, layout, learning_rate = self.rule, self.layout, self.learning_rate
        objective = self._objective(carry.model_state, t)
        linearized, curvature = linearize_shares(
            objective,
            layout.unflatten(carry.weights),
            layout,
            rule.curvature_share,
            rule.product_dtype,
        )
        gradient = layout.flatten(linearized.gradient())
        proposal, state = propose(
            rule, self.weights, layout, curvature, gradient, carry.state, self.unrolled
        )
        x, residual = proposal.solution, proposal.trajectory.residual
        scale, update, _ = _limit(x, carry.weights, learning_rate)
        after = carry.weights - learning_rate * _noise(self.seed, t, layout) * update
        moved = objective.linearize(layout.unflatten(after))
        if rule.damping_type == "LM_heuristics":
            # For the step that is taken: a model of x is not to blame for what a shorter step,
            # scale · x, leaves undone. The noise is left out: its mean is zero.
            predicted = model_decrease(gradient, x, residual, learning_rate * scale)
            damping = adapt_damping(
                state.damping, linearized.data_loss, moved.data_loss, predicted, rule.decay
            )
            state = state._replace(damping=damping)
        descent = tf.tensordot(gradient, x, 1)
        row = Row(
            weights=carry.weights,
            model_state=carry.model_state,
            state=carry.state,
            gradient=gradient,
            proposal=proposal,
            loss=linearized.value,
            loss_after=moved.value,
            gradient_after=layout.flatten(moved.gradient()),
            h=-descent / _length_in_curvature(x, gradient - residual),
            descent=descent,
        )
        return Carry(after, linearized.model_state, state), row

    def _d_solution(
        self, i: Any, row: Row, share: tf.Tensor, next_gradient: tf.Tensor
    ) -> tuple[Callable[[tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]:
        """Returns A v of a step, and the cotangents of its solution by objective."""
        layout, proposal = self.layout, row.proposal
        # Only for products: the gradient was kept.
        part = self._objective(row.model_state, i).first_examples(self.rule.curvature_share)
        linearized = part.linearize(layout.unflatten(row.weights), self.rule.product_dtype)
        curvature = curvature_of(linearized, layout)

        def damped(v: tf.Tensor) -> tf.Tensor:
            return curvature(v) + proposal.delta * v

        # ∂h/∂x_n: with A symmetric, <x, A x> has the gradient 2 A x, and A x_n = g - r_n.
        product = row.gradient - proposal.trajectory.residual
        root = _length_in_curvature(proposal.solution, product)
        d_h = (-row.gradient / root + row.descent / root**3 * product) / self.length
        d_h = tf.where(root > TINY**0.5, d_h, tf.zeros_like(d_h))
        # ∂(meta loss)/∂x_n through w_{t+1} = w_t - lr ν clip(x_n).
        slope = 0.5 * (row.gradient_after + next_gradient)
        weight = tf.cast(META_LOSS_WEIGHT, layout.dtype) * share
        _, _, limit_vjp = _limit(proposal.solution, row.weights, self.learning_rate)
        d_meta = limit_vjp(-self.learning_rate * weight * _noise(self.seed, i, layout) * slope)
        return damped, {"h": d_h, "meta": d_meta}

    def _objective(self, model_state: Any, t: Any) -> Objective:
        inputs, targets = tf.nest.map_structure(lambda value: value[t], self.batches)
        return Objective.of_static(self.static, inputs, targets, model_state)


def _noise(seed: tf.Tensor, t: Any, layout: Layout) -> tf.Tensor:
    """Returns U(0.98, 1.02) for each coordinate; drawn again for the backward pass, not kept.

    It is made of integers: XLA draws the same integers as TensorFlow's kernels, but other floats.
    """
    bits = tf.random.stateless_uniform(
        [layout.size],
        tf.stack([seed[0], seed[1] + t]),
        minval=None,
        maxval=None,
        dtype=tf.uint32,
        alg="philox",
    )
    # 24 of them, which every floating dtype of a layout holds exactly.
    whole = tf.bitcast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.int32)
    return (1 - NOISE) + (2 * NOISE / 2**24) * tf.cast(whole, layout.dtype)


def _limit(
    x: tf.Tensor, weights: tf.Tensor, learning_rate: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Returns the factor that limits ‖x‖ to 0.25 ‖w‖ / lr, the scaled x, and its vjp."""
    norm = tf.maximum(tf.norm(x), tf.cast(TINY, x.dtype))
    limit = LONGEST_STEP * tf.norm(weights) / learning_rate
    scale = tf.where(norm > limit, limit / norm, tf.ones_like(norm))

    def vjp(u: tf.Tensor) -> tf.Tensor:
        along = tf.tensordot(x, u, 1) / norm / norm
        return scale * (u - tf.where(norm > limit, along, tf.zeros_like(along)) * x)

    return scale, scale * x, vjp


def _length_in_curvature(x: tf.Tensor, product: tf.Tensor) -> tf.Tensor:
    """Returns sqrt<x, A x>, floored so that a zero step has h = 0 and a finite gradient."""
    return tf.sqrt(tf.maximum(tf.tensordot(x, product, 1), tf.cast(TINY, x.dtype)))


def _row_specs(rule: Rule, layout: Layout, carry: Carry) -> Row:
    vector = tf.TensorSpec([layout.size], layout.dtype)
    scalar = tf.TensorSpec([], layout.dtype)

    def spec(value: tf.Tensor) -> tf.TensorSpec:
        return tf.TensorSpec(value.shape, value.dtype)

    return Row(
        weights=vector,
        model_state=tf.nest.map_structure(spec, carry.model_state),
        state=tf.nest.map_structure(spec, carry.state),
        gradient=vector,
        proposal=proposal_specs(rule, layout),
        loss=scalar,
        loss_after=scalar,
        gradient_after=vector,
        h=scalar,
        descent=scalar,
    )
