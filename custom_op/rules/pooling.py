"""Rules for maximum pooling.

Where the windows do not overlap, the derivative is a selection: k² · average_pool(mask ⊙ t) with
the mask of each window's first maximum. That mask is made once; TensorFlow's own kernels for the
two directions, `MaxPoolGrad` and `MaxPoolGradGrad`, search for the maximum at every product.
"""

from __future__ import annotations

import tensorflow as tf

from custom_op.registry import register_r_forward, replay


def _tiles(op) -> bool:
    """Whether the windows tile the input: no overlap, no padding."""
    if op.get_attr("data_format") != b"NHWC" or not op.inputs[0].shape.rank == 4:
        return False
    window, strides = op.get_attr("ksize"), op.get_attr("strides")
    if list(window) != list(strides) or window[0] != 1 or window[3] != 1:
        return False
    if op.get_attr("padding") == b"VALID":
        return True
    height, width = op.inputs[0].shape[1:3]
    return (
        op.get_attr("padding") == b"SAME"
        and height is not None
        and width is not None
        and height % window[1] == 0
        and width % window[2] == 0
    )


@register_r_forward("MaxPool")
def max_pool(op):
    """R(y) is the tangent at each window's first maximum."""
    values, pooled = op.inputs[0], op.outputs[0]
    settings = {
        "ksize": list(op.get_attr("ksize")),
        "strides": list(op.get_attr("strides")),
        "padding": op.get_attr("padding").decode(),
        "data_format": op.get_attr("data_format").decode(),
    }
    if not _tiles(op):
        return lambda t: tf.raw_ops.MaxPoolGradGrad(
            orig_input=values, orig_output=pooled, grad=t, **settings
        )
    mask = tf.stop_gradient(
        tf.raw_ops.MaxPoolGrad(
            orig_input=values, orig_output=pooled, grad=tf.ones_like(pooled), **settings
        )
    )
    area = settings["ksize"][1] * settings["ksize"][2]

    def tangent_map(t):
        return area * tf.raw_ops.AvgPool(value=mask * t, **settings)

    return tangent_map


@register_r_forward("MaxPoolGrad", "MaxPoolGradGrad")
def max_pool_gradients(op):
    """Linear in the third input; where the maxima lie does not change, almost everywhere."""
    values, pooled, _ = op.inputs
    return lambda _, __, t: None if t is None else replay(op, [values, pooled, t])
