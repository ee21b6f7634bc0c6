"""Rules for maximum pooling of volumes, and for the kernels that tell where the maxima are."""

from __future__ import annotations

import tensorflow as tf

from custom_op.registry import register_r_forward, replay


@register_r_forward("MaxPool3D")
def max_pool_of_volumes(op):
    """R(y) is the tangent at each window's first maximum."""
    values, pooled = op.inputs[0], op.outputs[0]
    settings = {
        "ksize": list(op.get_attr("ksize")),
        "strides": list(op.get_attr("strides")),
        "padding": op.get_attr("padding").decode(),
        "data_format": op.get_attr("data_format").decode(),
    }
    return lambda t: tf.raw_ops.MaxPool3DGradGrad(
        orig_input=values, orig_output=pooled, grad=t, **settings
    )


@register_r_forward("MaxPool3DGrad", "MaxPool3DGradGrad")
def gradients_of_max_pool_of_volumes(op):
    """Linear in the third input; where the maxima lie does not change, almost everywhere."""
    values, pooled, _ = op.inputs
    return lambda _, __, t: None if t is None else replay(op, [values, pooled, t])


@register_r_forward("MaxPoolWithArgmax")
def max_pool_with_places(op):
    """R(y) is the tangent at the places that the operation tells."""
    values, places = op.inputs[0], op.outputs[1]
    shape = tf.shape(values)
    if not op.get_attr("include_batch_in_index"):
        # A place counts within its example.
        size = tf.cast(tf.reduce_prod(shape[1:]), places.dtype)
        first = size * tf.range(tf.cast(shape[0], places.dtype))
        places = places + first[:, None, None, None]
    return lambda t: (tf.gather(tf.reshape(t, [-1]), places), None)
