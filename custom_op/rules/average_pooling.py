"""Rules for average pooling, which is linear."""

from __future__ import annotations

import tensorflow as tf

from custom_op.registry import LinearMap, register_r_forward
from custom_op.rules.shapes import linear_in


@register_r_forward("AvgPool", "AvgPool3D")
def average_pool(op: tf.Operation) -> LinearMap:
    """The tangent is pooled as the values are."""
    return linear_in(0)(op)


@register_r_forward("AvgPoolGrad", "AvgPool3DGrad")
def gradient_of_average_pool(op: tf.Operation) -> LinearMap:
    """Linear in the upstream gradient, the second input; the first is a shape."""
    return linear_in(1)(op)
