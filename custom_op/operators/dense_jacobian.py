"""The Jacobian of a network's outputs as a matrix, all examples at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op.graphs.batching.over_vectors import on_examples
from custom_op.graphs.batching.values import NoRuleError

__all__ = ["NoRuleError", "components", "rows_by_examples"]


def components(outputs: Any) -> int | None:
    """Returns how many numbers each example's outputs have.

    Args:
      outputs: A network's outputs.

    Returns:
      The number; None if they are not one tensor of several examples, of static shape.
    """
    if tf.nest.is_nested(outputs) or not outputs.shape.rank:
        return None
    if not outputs.shape.is_fully_defined() or outputs.shape[0] < 2:
        return None
    return outputs.shape[1:].num_elements()


def rows_by_examples(pull: Callable[[tf.Tensor], tf.Tensor], outputs: tf.Tensor) -> tf.Tensor:
    """Returns J by one transposed product, for all examples at once, for each of their numbers.

    Call it inside a graph.

    Args:
      pull: The transposed product, from a tensor like the outputs to a flat vector [P].
      outputs: The outputs, of static shape [B, ...].

    Returns:
      J of shape [M, P], with M the number of outputs in row-major order.

    Raises:
      NoRuleError: If examples depend on each other and are too many to be written out.
    """
    rest = outputs.shape[1:]

    def rows(component: tf.Tensor) -> tf.Tensor:
        return on_examples(pull, outputs, tf.reshape(component, rest))

    each = tf.eye(rest.num_elements(), dtype=outputs.dtype)
    if each.shape[0] == 1:
        return rows(each[0])
    stacked = tf.transpose(tf.map_fn(rows, each), [1, 0, 2])
    return tf.reshape(stacked, [outputs.shape.num_elements(), stacked.shape[-1]])
