"""Rules for maximum pooling.

Where the windows do not overlap, the derivative is a selection: k² · average_pool(mask ⊙ t) with
the mask of each window's first maximum. That mask is made once; TensorFlow's own kernels for the
two directions, `MaxPoolGrad` and `MaxPoolGradGrad`, search for the maximum at every product. A
ReLU before the pooling passes its tangent at the same places where the pooled value is positive,
and nowhere else: the mask takes its part over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    chosen = tf.ones_like(pooled)
    if values.op.type == "Relu":
        chosen = tf.cast(pooled > 0, pooled.dtype)
    area = settings["ksize"][1] * settings["ksize"][2]
    mask = area * tf.stop_gradient(
        tf.raw_ops.MaxPoolGrad(orig_input=values, orig_output=pooled, grad=chosen, **settings)
    )
    return lambda t: tf.raw_ops.AvgPool(value=mask * t, **settings)


def absorbed_relus(
    operations: Sequence[tf.Operation], outputs: Sequence[tf.Tensor]
) -> frozenset[str]:
    """Returns the names of the ReLUs that only poolings by a mask read.

    Args:
      operations: All that tangents may pass.
      outputs: Whose tangents are wanted.

    Returns:
      The names; the tangent of such an operation's input serves as that of its output.
    """
    wanted = {tensor.ref() for tensor in outputs}
    readers: dict[Any, list[tf.Operation]] = {}
    for op in operations:
        for tensor in op.inputs:
            readers.setdefault(tensor.ref(), []).append(op)
    return frozenset(
        op.name
        for op in operations
        if op.type == "Relu"
        and "_gradient_op_type" not in op.node_def.attr
        and op.outputs[0].ref() not in wanted
        and all(
            reader.type == "MaxPool"
            and "_gradient_op_type" not in reader.node_def.attr
            and _tiles(reader)
            for reader in readers.get(op.outputs[0].ref(), [])
        )
    )


@register_r_forward("MaxPoolGrad", "MaxPoolGradGrad")
def max_pool_gradients(op):
    """Linear in the third input; where the maxima lie does not change, almost everywhere."""
    values, pooled, _ = op.inputs
    return lambda _, __, t: None if t is None else replay(op, [values, pooled, t])
