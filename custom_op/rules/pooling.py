"""Rules for maximum pooling.

The derivative is a selection: the tangent at the first maximum of each window. The maximum is
located once, whereas TensorFlow's own kernels for the two directions, `MaxPoolGrad` and
`MaxPoolGradGrad`, search for it in every product. If windows tile the input, its location is stored
as a mask or as one byte per window, else as an index (`custom_op.linear_maps.maxima`). A preceding
ReLU passes the tangent at the same entries if the pooled value is positive, and nowhere else: the
selection covers it, and a bias before it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from custom_op.linear_maps import paired, selection
from custom_op.linear_maps.grouping import Group, Readers
from custom_op.linear_maps.maxima import first_places, take
from custom_op.registry import LinearMap, has_custom_gradient, register_r_forward
from custom_op.rules.max_pooling_variants import windows_of


def groups(operations: Sequence[tf.Operation], readers: Readers) -> dict[str, Group]:
    """Finds poolings whose windows tile, after a ReLU, or after a bias and a ReLU.

    Args:
      operations: All operations that tangents may pass.
      readers: The readers of each tensor among them.

    Returns:
      The groups by the name of the pooling; only the pooling reads the absorbed operations.
    """
    found = {}
    for op in operations:
        if op.type != "MaxPool" or has_custom_gradient(op) or not _tiles(op):
            continue
        relu = op.inputs[0].op
        if relu.type != "Relu" or has_custom_gradient(relu) or readers.only(op.inputs[0]) is None:
            continue
        reads, absorbed = [relu.inputs[0]], [relu.name]
        add = relu.inputs[0].op
        if readers.only(relu.inputs[0]) is not None and not has_custom_gradient(add):
            values, bias = _bias_of(add)
            if bias is not None:
                reads, absorbed = [values, bias], [relu.name, add.name]
        found[op.name] = Group(reads, absorbed, _selecting(op, after_relu=True))
    return found


def _bias_of(add: tf.Operation) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """Returns the summand of a bias, and the bias; or two Nones."""
    if add.type == "BiasAdd" and add.get_attr("data_format") == b"NHWC":
        return add.inputs[0], add.inputs[1]
    if add.type in ("Add", "AddV2"):
        for values, bias in (add.inputs, reversed(add.inputs)):
            if (
                values.shape.is_fully_defined()
                and values.shape == add.outputs[0].shape
                and bias.shape.num_elements() == values.shape[-1]
                and bias.shape[-1:] == values.shape[-1:]
            ):
                return values, bias
    return None, None


def _tiles(op: tf.Operation) -> bool:
    """Whether the windows tile the input, without overlap or padding."""
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


def _settings(op: tf.Operation) -> dict[str, Any]:
    return {
        "ksize": list(op.get_attr("ksize")),
        "strides": list(op.get_attr("strides")),
        "padding": op.get_attr("padding").decode(),
        "data_format": op.get_attr("data_format").decode(),
    }


def _selecting(op: tf.Operation, after_relu: bool) -> Callable[..., tf.Tensor | None]:
    """Returns the tangent map of a pooling whose windows tile."""
    values, pooled = op.inputs[0], op.outputs[0]
    window = op.get_attr("ksize")[1:3]
    if paired.pays(values.shape):
        chosen = selection.first_maxima(values, pooled, window, after_relu)
        take = selection.selection(chosen, window, values.shape)
    else:
        take = _masking(op, after_relu)

    def tangent_map(tangent: tf.Tensor | None, bias: tf.Tensor | None = None) -> tf.Tensor | None:
        if bias is not None:
            bias = tf.reshape(bias, [-1])
        if tangent is not None:
            return take(tangent, bias)
        return tf.cast(pooled > 0, pooled.dtype) * bias if after_relu else bias

    return tangent_map


def _masking(op: tf.Operation, after_relu: bool) -> Callable[..., tf.Tensor]:
    """Returns the selection by a mask, which is one at the first maximum of each window."""
    values, pooled = op.inputs[0], op.outputs[0]
    ones = tf.cast(pooled > 0, pooled.dtype) if after_relu else tf.ones_like(pooled)
    mask = tf.stop_gradient(
        tf.raw_ops.MaxPoolGrad(orig_input=values, orig_output=pooled, grad=ones, **_settings(op))
    )
    height, width = op.get_attr("ksize")[1:3]

    def take(tangent: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
        if bias is not None:
            tangent = tf.nn.bias_add(tangent, bias)
        return height * width * tf.raw_ops.AvgPool(value=mask * tangent, **_settings(op))

    return take


@register_r_forward("MaxPool")
def max_pool(op: tf.Operation) -> LinearMap:
    """R(y) is the tangent at each window's first maximum."""
    if _tiles(op):
        return _selecting(op, after_relu=False)
    places = first_places(op.inputs[0], windows_of(op))
    return lambda t: take(t, places)
