"""Which examples of a batch count, and how much."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks import networks


class Counted(NamedTuple):
    """The weights of the examples beside a mask, in the place of weights alone."""

    weights: Any  # `()` for ones
    mask: tf.Tensor


def both_masks(mask: Any, other: tf.Tensor | None) -> Any:
    """Returns where two masks hold; one that is None holds everywhere.

    Args:
      mask: A mask, or None.
      other: A mask of the same first axes, or None.
    """
    if mask is None or other is None:
        return other if mask is None else mask
    mask = networks.as_mask(mask)
    few, many = sorted((mask, other), key=lambda part: part.shape.rank)
    while few.shape.rank < many.shape.rank:
        few = few[..., tf.newaxis]
    return few & many
