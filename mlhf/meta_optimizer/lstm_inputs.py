"""The LSTMs' inputs: the gradient, the residual and the solution of a step, scaled or not."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer.rule import Rule


def lstm_inputs(
    rule: Rule, layout: Layout, vectors: Sequence[tf.Tensor]
) -> tuple[list[tf.Tensor], list[tf.Tensor | None]]:
    """Returns flat vectors as an LSTM sees them, and the factors that they were scaled with.

    Args:
      rule: The rule, which says whether vectors are scaled, and which of them are seen.
      layout: The layout of the vectors.
      vectors: A gradient, a residual and a solution, each [size].

    Returns:
      The blocks, [blocks, block] each; and the factors, [size] each or None for one. They count
      as constants where a rollout is differentiated.
    """
    factors: list[tf.Tensor | None] = []
    for name, vector in zip("grx", vectors, strict=True):
        if name not in rule.inputs:
            factors.append(tf.zeros_like(vector))
        elif rule.input_scale == "rms":
            factors.append(layout.inverse_root_mean_square(vector))
        else:
            factors.append(None)
    scaled = [v if f is None else f * v for f, v in zip(factors, vectors, strict=True)]
    return [layout.to_blocks(vector) for vector in scaled], factors
