"""Rules for maximum pooling of volumes, and for the gradients of maximum pooling."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from custom_op import fallback
from custom_op.linear_maps.maxima import Windows, first_places, put, take
from custom_op.registry import LinearMap, register_r_forward


def windows_of(op: Any) -> Windows:
    """Returns the windows of a pooling, of its gradient, or of its second gradient.

    Args:
      op: The operation, or its stand-in in TensorFlow's gradient functions.

    Returns:
      The windows.

    Raises:
      NotDifferentiableError: If sizes and strides are tensors of unknown value.
    """
    padding = op.get_attr("padding")
    explicit: list[tuple[int, int]] = []
    padding = padding.decode() if isinstance(padding, bytes) else padding
    if padding == "EXPLICIT":
        flat = list(op.get_attr("explicit_paddings"))
        explicit = list(zip(flat[::2], flat[1::2], strict=True))
    if not op.type.endswith("V2"):
        sizes, strides = op.get_attr("ksize"), op.get_attr("strides")
        return Windows(list(sizes), list(strides), padding, explicit)
    known = [tf.get_static_value(value) for value in list(op.inputs)[-2:]]
    if known[0] is None or known[1] is None:
        raise fallback.NotDifferentiableError(
            fallback.refusal(
                op, "its windows are not known while tracing", "give it constant sizes and strides"
            )
        )
    return Windows(known[0].tolist(), known[1].tolist(), padding, explicit)


@register_r_forward("MaxPool3D", "MaxPoolV2")
def max_pool_in_any_space(op: tf.Operation) -> LinearMap:
    """R(y) is the tangent at each window's first maximum."""
    places = first_places(op.inputs[0], windows_of(op))
    return lambda t, *_: take(t, places)


@register_r_forward("MaxPoolGrad", "MaxPoolGradV2", "MaxPool3DGrad")
def gradient_of_max_pool(op: tf.Operation) -> LinearMap:
    """Linear in the third input; the indices of maxima are constant almost everywhere."""
    values = op.inputs[0]
    places = first_places(values, windows_of(op))
    return lambda _, __, t, *___: None if t is None else put(t, places, values)


@register_r_forward("MaxPoolGradGrad", "MaxPoolGradGradV2", "MaxPool3DGradGrad")
def second_gradient_of_max_pool(op: tf.Operation) -> LinearMap:
    """Linear in the third input; the indices of maxima are constant almost everywhere."""
    places = first_places(op.inputs[0], windows_of(op))
    return lambda _, __, t, *___: None if t is None else take(t, places)


def told_places(op: Any, argmax: tf.Tensor) -> tf.Tensor:
    """Returns an operation's argmax as indices into its whole input as one vector."""
    if op.get_attr("include_batch_in_index"):
        return argmax
    # The argmax counts within its example.
    shape = tf.shape(op.inputs[0], out_type=argmax.dtype)
    return argmax + (tf.reduce_prod(shape[1:]) * tf.range(shape[0]))[:, None, None, None]


@register_r_forward("MaxPoolWithArgmax")
def max_pool_with_places(op: tf.Operation) -> LinearMap:
    """R(y) is the tangent at the indices that the operation returns."""
    places = told_places(op, op.outputs[1])
    return lambda t: (take(t, places), None)


@register_r_forward("MaxPoolGradWithArgmax")
def gradient_of_max_pool_with_places(op: tf.Operation) -> LinearMap:
    """Linear in the second input."""
    values, _, argmax = op.inputs
    places = told_places(op, argmax)
    return lambda _, t, __: None if t is None else put(t, places, values)
