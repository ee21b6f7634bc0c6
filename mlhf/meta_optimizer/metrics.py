"""The metrics that MLHF reports for a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer.proposal import Proposal
from mlhf.objective import LinearizedObjective


def of_step(
    layout: Layout,
    linearized: LinearizedObjective,
    gradient: tf.Tensor,
    proposal: Proposal,
    damping: tf.Tensor,
    rate: tf.Tensor,
    curvature: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> dict[str, tf.Tensor]:
    """Returns the metrics of a whole step.

    Args:
      layout: The layout of the flat vectors.
      linearized: The objective where the step began.
      gradient: g.
      proposal: The proposal that the step takes.
      damping: The constant part of δ.
      rate: lr.
      curvature: The product G v, for metrics that cost one; None leaves them out.

    Returns:
      Scalars by name.
    """
    product = None if curvature is None else curvature(gradient) + proposal.delta * gradient
    scalars = {
        "loss": linearized.value,
        "gradient_norm": tf.norm(gradient),
        "step_norm": rate * tf.norm(proposal.solution),
        "damping": damping,
        "mean_delta": tf.reduce_sum(proposal.delta * layout.mask()) / layout.parameters,
        **of_proposal(gradient, proposal, product),
    }
    if curvature is not None:
        scalars["w_norm"] = tf.norm(layout.flatten(linearized.parameters))
    return scalars


def of_proposal(
    gradient: tf.Tensor, proposal: Proposal, product: Any = None
) -> dict[str, tf.Tensor]:
    """Returns the metrics that the original logs for a step.

    Args:
      gradient: g.
      proposal: The proposal that the step takes.
      product: A g, for the length of the gradient in A's norm; None leaves it out.

    Returns:
      Scalars by name.
    """
    x, residual = proposal.solution, proposal.trajectory.residual
    slope = tf.tensordot(gradient, x, 1)
    square = tf.tensordot(gradient, gradient, 1)
    tiny = tf.constant(1e-30, gradient.dtype)
    curvature = tf.tensordot(x, gradient - residual, 1)
    scalars = {
        "x_by_g": tf.norm(x) / tf.maximum(tf.sqrt(square), tiny),
        "r_norm": tf.norm(residual),
        "minus_h": slope / tf.sqrt(tf.maximum(curvature, tiny)),
        "g_dot_x": slope,
        "g_square": square,
        "cg_iterations": proposal.trajectory.iterations,
    }
    if product is not None:
        scalars["g_length_in_A"] = square / tf.sqrt(
            tf.maximum(tf.tensordot(gradient, product, 1), tiny)
        )
    return scalars
