"""Adam on a structure of tensors (Kingma and Ba 2015), as a function of its state."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class AdamState(NamedTuple):
    """The running moments."""

    step: tf.Tensor  # int64, the number of updates done
    first: Any
    second: Any


def init(parameters: Any) -> AdamState:
    """Returns the state before the first update."""
    return AdamState(
        tf.constant(0, tf.int64),
        tf.nest.map_structure(tf.zeros_like, parameters),
        tf.nest.map_structure(tf.zeros_like, parameters),
    )


def update(
    parameters: Any, gradient: Any, state: AdamState, learning_rate: tf.Tensor
) -> tuple[Any, AdamState]:
    """Returns the parameters and the state after an update (algorithm 1 of the paper)."""
    step = state.step + 1
    first = tf.nest.map_structure(lambda m, g: BETA1 * m + (1 - BETA1) * g, state.first, gradient)
    second = tf.nest.map_structure(
        lambda v, g: BETA2 * v + (1 - BETA2) * g * g, state.second, gradient
    )

    def move(w: tf.Tensor, m: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        time = tf.cast(step, w.dtype)
        m_hat = m / (1 - BETA1**time)
        v_hat = v / (1 - BETA2**time)
        return w - tf.cast(learning_rate, w.dtype) * m_hat / (tf.sqrt(v_hat) + EPSILON)

    moved = tf.nest.map_structure(move, parameters, first, second)
    return moved, AdamState(step, first, second)
