"""The outer optimizer of Maclaurin et al. 2015, as in their published code.

It is called Adam there, after the first draft of Kingma and Ba 2015, but is not what is called Adam
today. The weight of the newest gradient in the first moment is 1 - 0.9 · 10⁻⁴ⁱ, so that from
the second update on the moment is the newest gradient alone; the correction that follows divides by
1 - 0.9ⁱ⁺¹ all the same, as if ten gradients were averaged. What remains is RMSprop, with a second
moment over 100 gradients, whose early steps are too long by factors of 5.3, 3.7, 2.9, ..., 1.02
(updates 2, 3, 4, ..., 38).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mlhf.meta_training.adam import AdamState, init

FORGETTING, DECAY, BETA2, EPSILON = 0.9, 1e-4, 0.99, 1e-4

__all__ = ["AdamState", "init", "update"]


def update(
    parameters: Any, gradient: Any, state: AdamState, learning_rate: tf.Tensor
) -> tuple[Any, AdamState]:
    """Returns the parameters and the state after an update."""
    time = float(state.step)
    old = FORGETTING * DECAY**time
    first = tf.nest.map_structure(lambda m, g: old * m + (1 - old) * g, state.first, gradient)
    second = tf.nest.map_structure(
        lambda v, g: BETA2 * v + (1 - BETA2) * g * g, state.second, gradient
    )
    rate = tf.cast(learning_rate, tf.float64) / (1 - FORGETTING ** (time + 1))

    def move(w: tf.Tensor, m: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        size = tf.sqrt(v / (1 - BETA2 ** (time + 1))) + EPSILON
        return w - tf.cast(rate, w.dtype) * m / size

    moved = tf.nest.map_structure(move, parameters, first, second)
    return moved, AdamState(state.step + 1, first, second)
