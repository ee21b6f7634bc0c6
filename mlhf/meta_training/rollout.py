"""A rollout of MLHF and the exact gradient of its surrogate in the meta-parameters.

Forward, T steps of training: one loop, a row of tensors kept a step. Backward, the same steps in
reverse, two cotangents at a time: that of the mean of h, which the preconditioner and the start
learn from, and that of the meta loss, which the damping learns from. What passes gradients and
what is constant stands in `meta_gradient`. The network's own derivatives stay of first order:
the curvature of a step is built at constant weights, so that the derivative of a product with it
is the same product again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer import coordinate_lstm, recorded_cg
from mlhf.meta_optimizer.coordinate_lstm import Cotangent, LSTMWeights
from mlhf.meta_optimizer.proposal import Proposal, describe, lstm_inputs, proposal_specs, propose
from mlhf.meta_optimizer.rule import MetaState, Rule
from mlhf.meta_training.scan import Rows, scan
from mlhf.objective import Objective
from mlhf.optimizers.curvature_shares import curvature_of, linearize_shares
from mlhf.optimizers.damping import adapt_damping, model_decrease

META_LOSS_WEIGHT = 10.0
NOISE = 0.02
LONGEST_STEP = 0.25
TINY = 1e-20


class Carry(NamedTuple):
    """What a rollout hands to the next."""

    weights: tf.Tensor  # w, flat
    model_state: Any
    state: MetaState


class Row(NamedTuple):
    """What is kept of a step."""

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
    """What a rollout teaches."""

    gradient: dict[str, LSTMWeights]  # by role
    metrics: dict[str, tf.Tensor]


def roll(
    rule: Rule,
    weights: dict[str, LSTMWeights],
    layout: Layout,
    static: tuple,
    batches: tuple,
    carry: Carry,
    learning_rate: tf.Tensor,
    seed: tf.Tensor,
    length: int,
    unrolled: bool = False,
) -> tuple[Carry, Rows]:
    """Trains for some steps and keeps what the meta-gradient needs.

    Args:
      rule: What is learned.
      weights: By role.
      layout: Of the flat vectors.
      static: `Objective.static`.
      batches: Inputs and targets with a leading axis of `length`.
      carry: Where to start.
      learning_rate: lr, a scalar.
      seed: int32 [2], of the noise.
      length: T.
      unrolled: Whether time and conjugate gradients are written out instead of looped.

    Returns:
      The carry for the next rollout, and the rows.
    """

    def body(t, carry):
        objective = _objective(static, batches, carry.model_state, t)
        linearized, curvature = linearize_shares(
            objective,
            layout.unflatten(carry.weights),
            layout,
            rule.curvature_share,
            rule.product_dtype,
        )
        gradient = layout.flatten(linearized.gradient())
        proposal, state = propose(
            rule,
            weights,
            layout,
            curvature,
            gradient,
            carry.state,
            unrolled,
        )
        x, residual = proposal.solution, proposal.trajectory.residual
        scale, update, _ = _limit(x, carry.weights, learning_rate)
        after = carry.weights - learning_rate * _noise(seed, t, layout) * update
        moved = objective.linearize(layout.unflatten(after))
        if rule.damping_type == "LM_heuristics":
            # Of the step that is taken: a model of x is not to blame for what a shorter step,
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

    return scan(body, carry, length, _row_specs(rule, layout, carry), unrolled=unrolled)


def describe_last(
    rule: Rule, layout: Layout, static: tuple, batches: tuple, rows: Rows, length: int
) -> dict[str, tf.Tensor]:
    """Returns the numbers of a rollout's last step that cost a curvature product more.

    Args:
      rule: As for `roll`.
      layout: As for `roll`.
      static: As for `roll`.
      batches: As for `roll`.
      rows: What `roll` kept.
      length: As for `roll`.

    Returns:
      Those of `mlhf.meta_optimizer.proposal.describe`, and `w_norm`.
    """
    row = rows.read(length - 1)
    objective = _objective(static, batches, row.model_state, length - 1)
    linearized = objective.first_examples(rule.curvature_share).linearize(
        layout.unflatten(row.weights)
    )
    product = curvature_of(linearized, layout)(row.gradient) + row.proposal.delta * row.gradient
    return {**describe(row.gradient, row.proposal, product), "w_norm": tf.norm(row.weights)}


def meta_gradient(
    rule: Rule,
    weights: dict[str, LSTMWeights],
    layout: Layout,
    static: tuple,
    batches: tuple,
    rows: Rows,
    learning_rate: tf.Tensor,
    seed: tf.Tensor,
    length: int,
    unrolled: bool = False,
) -> MetaGradient:
    """Differentiates both meta losses of a rollout.

    With h_t = -<g, x_n> / sqrt<x_n, A x_n> and m_t = (L'_t + L_{t+1})/2 - L_t, the start and the
    preconditioner get the gradient of mean(h), the damping that of 10 · Σ softmax(m)_t m_t, the
    softmax held constant. Constant in step t are g_t, r₋, x₋, G, ‖w_t‖, the noise, and w_t as the
    base of the update; time is crossed through the LSTMs' states only.

    Args:
      rule: As for `roll`.
      weights: As for `roll`.
      layout: As for `roll`.
      static: As for `roll`.
      batches: As for `roll`.
      rows: What `roll` kept.
      learning_rate: As for `roll`.
      seed: As for `roll`.
      length: As for `roll`.
      unrolled: As for `roll`.

    Returns:
      The gradient by role, and metrics.
    """
    losses, after = rows.column("loss"), rows.column("loss_after")
    same, following = after[:-1] - losses[:-1], losses[1:] - losses[:-1]
    gains = 0.5 * (same + following)
    # The last step has no next batch and no share in the meta loss.
    shares = tf.concat(
        [tf.nn.softmax(gains) if length > 1 else gains, tf.zeros_like(losses[:1])], 0
    )

    def body(i, carry):
        gradients, d_states, next_gradient = carry
        row = rows.read(i)
        # The products alone: the gradient was kept.
        part = _objective(static, batches, row.model_state, i).first_examples(rule.curvature_share)
        linearized = part.linearize(layout.unflatten(row.weights), rule.product_dtype)
        curvature = curvature_of(linearized, layout)
        proposal = row.proposal

        def damped(v):
            return curvature(v) + proposal.delta * v

        # ∂h/∂x_n: with A symmetric, <x, A x> has the gradient 2 A x, and A x_n = g - r_n.
        product = row.gradient - proposal.trajectory.residual
        root = _length_in_curvature(proposal.solution, product)
        d_h = (-row.gradient / root + row.descent / root**3 * product) / length
        d_h = tf.where(root > TINY**0.5, d_h, tf.zeros_like(d_h))
        # ∂(meta loss)/∂x_n through w_{t+1} = w_t - lr ν clip(x_n).
        slope = 0.5 * (row.gradient_after + next_gradient)
        weight = tf.cast(META_LOSS_WEIGHT, layout.dtype) * shares[i]
        _, _, limit_vjp = _limit(proposal.solution, row.weights, learning_rate)
        d_meta = limit_vjp(-learning_rate * weight * _noise(seed, i, layout) * slope)

        gradients, d_states = _back_one_step(
            rule,
            weights,
            layout,
            damped,
            row,
            {"h": d_h, "meta": d_meta},
            gradients,
            d_states,
            unrolled,
        )
        return (gradients, d_states, row.gradient), ()

    zeros = {
        role: LSTMWeights(*[tf.zeros_like(value) for value in weights[role]]) for role in rule.roles
    }
    state_zeros = coordinate_lstm.zero_state(layout.blocks, layout.block, layout.dtype)
    d_states = {key: state_zeros for key in _flows(rule)}
    start = (zeros, d_states, tf.zeros([layout.size], layout.dtype))
    (gradients, _, _), _ = scan(body, start, length, unrolled=unrolled, reverse=True)
    shares = shares[:-1]
    metrics = {
        "hession_loss": tf.reduce_mean(rows.column("h")),
        "meta_loss": tf.reduce_sum(shares * gains),
        "meta_loss_same_batch": tf.reduce_sum(shares * same),
        "meta_loss_next_batch": tf.reduce_sum(shares * following),
        "base_loss": losses[0],
        "loss": losses[-1],
    }
    return MetaGradient(gradients, metrics)


def _flows(rule: Rule) -> list[str]:
    """The (objective, role) pairs whose cotangents cross time through an LSTM's state.

    h teaches x and y, and reaches x through y. The meta loss teaches d, and reaches it through y;
    what it would say to x and y is not used, and x depends on nothing that d does.
    """
    flows = []
    if rule.y_use == "rnn":
        flows.append("h/y")
        if rule.d_use == "rnn":
            flows.append("meta/y")
    if rule.x_use == "rnn":
        flows.append("h/x")
    if rule.d_use == "rnn":
        flows.append("meta/d")
    return flows


def _back_one_step(rule, weights, layout, damped, row, d_solution, gradients, d_states, unrolled):
    """Takes the cotangents of one step's solution to the weights and to the states before it."""
    proposal = row.proposal
    gradients, d_states = dict(gradients), dict(d_states)
    live = [name for name in ("h", "meta") if any(flow.startswith(name) for flow in d_states)]
    d_diagonal, d_delta, d_residual = {}, {}, {}
    d_start = dict(d_solution)
    for name in live:
        d_diagonal[name], d_delta[name], d_residual[name] = recorded_cg.solution_vjp(
            damped, proposal.diagonal, proposal.trajectory, d_solution[name], unrolled
        )

    def back(role, inputs, cotangents):
        blocks, factors = lstm_inputs(rule, layout, inputs)
        results = coordinate_lstm.vjp(
            weights[role],
            layout.kind_of_block,
            blocks,
            row.state.lstm[role],
            [c._replace(output=layout.to_blocks(c.output)) for c in cotangents],
        )

        def unscaled(position, d_input):
            flat, factor = tf.reshape(d_input, [layout.size]), factors[position]
            return flat if factor is None else factor * flat

        return [
            (gradient, {i: unscaled(i, value) for i, value in d_inputs.items()}, before)
            for gradient, d_inputs, before in results
        ]

    def add(role, gradient):
        gradients[role] = LSTMWeights(
            *[total + part for total, part in zip(gradients[role], gradient, strict=True)]
        )

    if rule.y_use == "rnn":
        slope = tf.sigmoid(proposal.diagonal_drive)
        # The start's LSTM needs what reaches r₀ and x₀; the damping's needs what reaches r₀.
        wanted = {"h": (1, 2) if rule.x_use == "rnn" else (), "meta": (1,)}
        results = back(
            "y",
            [row.gradient, proposal.start_residual, proposal.start],
            [
                Cotangent(
                    d_diagonal[name] * slope, d_states[f"{name}/y"], name == "h", wanted[name]
                )
                for name in live
                if f"{name}/y" in d_states
            ],
        )
        names = [name for name in live if f"{name}/y" in d_states]
        for name, (gradient, inputs, before) in zip(names, results, strict=True):
            d_states[f"{name}/y"] = before
            if gradient is not None:
                add("y", gradient)
            if 1 in inputs:
                d_residual[name] += inputs[1]
            if 2 in inputs:
                d_start[name] += inputs[2]
    memory = [row.gradient, row.state.residual, row.state.solution]
    if rule.x_use == "rnn":
        # r₀ = g - A x₀.
        d_output = (d_start["h"] - damped(d_residual["h"])) * layout.mask()
        ((gradient, _, before),) = back(
            "x", memory, [Cotangent(d_output, d_states["h/x"], True, ())]
        )
        d_states["h/x"] = before
        add("x", gradient)
    if rule.d_use == "rnn":
        total = d_delta["meta"] - d_residual["meta"] * proposal.start
        d_output = rule.damping_scale * total * tf.sigmoid(proposal.delta_drive)
        ((gradient, _, before),) = back(
            "d", memory, [Cotangent(d_output, d_states["meta/d"], True, ())]
        )
        d_states["meta/d"] = before
        add("d", gradient)
    return gradients, d_states


def _objective(static, batches, model_state, t) -> Objective:
    inputs, targets = tf.nest.map_structure(lambda value: value[t], batches)
    return Objective.of(static, (inputs, targets, model_state))


def _noise(seed: tf.Tensor, t: Any, layout: Layout) -> tf.Tensor:
    """U(0.98, 1.02) a coordinate; drawn again, not kept, for the backward pass.

    Made of integers: XLA draws the same integers as TensorFlow's kernels, but other floats.
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


def _limit(x: tf.Tensor, weights: tf.Tensor, learning_rate: tf.Tensor):
    """Scales x to a norm of at most 0.25 ‖w‖ / lr.

    Returns the factor, the scaled x, and the transpose of its derivative.
    """
    norm = tf.maximum(tf.norm(x), tf.cast(TINY, x.dtype))
    limit = LONGEST_STEP * tf.norm(weights) / learning_rate
    scale = tf.where(norm > limit, limit / norm, tf.ones_like(norm))

    def vjp(u):
        along = tf.tensordot(x, u, 1) / norm / norm
        return scale * (u - tf.where(norm > limit, along, tf.zeros_like(along)) * x)

    return scale, scale * x, vjp


def _length_in_curvature(x: tf.Tensor, product: tf.Tensor) -> tf.Tensor:
    """sqrt<x, A x>, floored so that a zero step has h = 0 and a finite gradient."""
    return tf.sqrt(tf.maximum(tf.tensordot(x, product, 1), tf.cast(TINY, x.dtype)))


def _row_specs(rule: Rule, layout: Layout, carry: Carry) -> Row:
    vector = tf.TensorSpec([layout.size], layout.dtype)
    scalar = tf.TensorSpec([], layout.dtype)

    def spec(value):
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
