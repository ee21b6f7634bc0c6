"""One meta-step: a rollout, its meta-gradient, and Adam on the LSTMs' weights."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_training import adam
from mlhf.meta_training.rollout import Carry, Rollout

WEIGHT_PENALTY = 2e-7


class MetaStep(NamedTuple):
    """The results of one compiled meta-step."""

    weights: dict[str, LSTMWeights]
    adam: adam.AdamState
    carry: Carry
    metrics: dict[str, tf.Tensor]
    finite: tf.Tensor


def meta_step(
    optimizer: MetaHessianFree,
    layout: Layout,
    static: tuple[Any, ...],
    unrolled: bool,
    weights: dict[str, LSTMWeights],
    moments: adam.AdamState,
    carry: Carry,
    batches: tuple[Any, ...],
    seed: tf.Tensor,
    learning_rate: tf.Tensor,
    meta_rate: tf.Tensor,
    *,
    rows_of_kinds: tuple[int, ...] | None = None,
) -> MetaStep:
    """Takes one rollout and one update of the LSTMs' weights; to be compiled as a whole.

    Args:
      optimizer: The optimizer whose rule is trained; if it is `detailed`, the metrics have its own
        numbers of the rollout's last step.
      layout: The layout of the flat vectors.
      static: `Objective.static`.
      unrolled: Whether loops are written out.
      weights: The LSTMs' weights by role.
      moments: Adam's state.
      carry: The point where the rollout starts.
      batches: Inputs and targets, [T, ...].
      seed: The seed of the noise, int32 [2].
      learning_rate: The learning rate of the rollout.
      meta_rate: Adam's learning rate.
      rows_of_kinds: The rows of the weights for the layout's kinds; None for all, in order.

    Returns:
      The new weights and states. If anything is not finite, weights and moments stay.
    """
    present = weights
    if rows_of_kinds is not None:
        present = tf.nest.map_structure(lambda w: tf.gather(w, rows_of_kinds), weights)
    rule = optimizer.rule
    rollout = Rollout(rule, present, layout, static, batches, learning_rate, seed, unrolled)
    after, rows = rollout.run(carry)
    gradient, metrics = rollout.gradient(rows)
    if rows_of_kinds is not None:
        # Kinds that this task does not have get no gradient from it.
        places = [[row] for row in rows_of_kinds]
        gradient = tf.nest.map_structure(
            lambda g, w: tf.scatter_nd(places, g, w.shape), gradient, weights
        )
    gradient = tf.nest.map_structure(lambda g, w: g + WEIGHT_PENALTY * w, gradient, weights)
    grad_length = tf.linalg.global_norm(tf.nest.flatten(gradient))
    var_length = tf.linalg.global_norm(tf.nest.flatten(weights))
    scale = tf.minimum(tf.ones_like(var_length), var_length / tf.maximum(grad_length, 1e-30))
    gradient = tf.nest.map_structure(lambda g: scale * g, gradient)
    moved, new_moments = adam.update(weights, gradient, moments, meta_rate)

    watched = [grad_length, after.weights, rows.column("loss"), rows.column("loss_after")]
    watched += [after.state.solution, after.state.residual]
    watched += [v for v in tf.nest.flatten(after.model_state) if v.dtype.is_floating]
    finite = functools.reduce(
        tf.logical_and, [tf.reduce_all(tf.math.is_finite(value)) for value in watched]
    )
    moved, new_moments = tf.nest.map_structure(
        lambda new, old: tf.where(finite, new, old), (moved, new_moments), (weights, moments)
    )
    metrics = {
        **metrics,
        "r_loss": 0.5 * WEIGHT_PENALTY * var_length**2,
        "var_length": var_length,
        "grad_length": grad_length,
        "grad_rate": grad_length / tf.maximum(var_length, 1e-30),
        "weights_norm": tf.norm(after.weights),
        "learning_rate": meta_rate,
    }
    if optimizer.detailed:
        metrics.update(rollout.metrics_of_last(rows))
    return MetaStep(moved, new_moments, after, metrics, finite)
