"""Means over a batch as means over its shares, which several devices may compute."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class Share(NamedTuple):
    """A part of a batch that one device computes; on one device that is the whole batch.

    Attributes:
      objective: The loss on the share, without the regularizer if there are several shares.
      number: The number of the share among all.
      of: The number of shares.
    """

    objective: Any
    number: int = 0
    of: int = 1


class Mean(NamedTuple):
    """Tensors that are means over one share of a batch.

    Attributes:
      weight: The weight of this share's means among the others, a scalar such as a number of terms.
      tensors: The means.
    """

    weight: tf.Tensor
    tensors: list[tf.Tensor]


class OfBatch(NamedTuple):
    """What `Objective.over_shares` returns.

    Attributes:
      means: The tensors of each `Mean`, now means over the batch.
      weights: The weight of each `Mean`, now the sum over the shares.
      model_state: The network's state after the batch.
    """

    means: list[list[tf.Tensor]]
    weights: list[tf.Tensor]
    model_state: Any
