"""Rules for lists of tensors (`tf.TensorArray`, `tf.map_fn`, `tf.scan`) and optional tensors.

The tangent of a list is a list of the tangents of its entries; an entry that was never written has
none. Loops and branches keep in such lists, and in optionals, what their gradients read.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from custom_op.fallback import carries_tangents
from custom_op.registry import register_r_forward, replay


def zeros_like(value: tf.Tensor) -> tf.Tensor:
    """Returns a zero tangent of a tensor, or of a list of tensors."""
    source = value.op
    while source.type == "Identity":
        source = source.inputs[0].op
    if source.type in ("EmptyTensorList", "TensorListReserve"):
        sizes = [tf.get_static_value(size) for size in source.inputs]
        if all(size is not None for size in sizes):
            # XLA takes no zeros of a list that nothing was written to.
            return replay(source, _constants(source.inputs))[0]
    return tf.zeros_like(value)


def _constants(inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Makes constants again of places and sizes, which list operations read while being traced."""
    known = [None if carries_tangents(value) else tf.get_static_value(value) for value in inputs]
    return [
        value if content is None else tf.constant(content, value.dtype)
        for value, content in zip(inputs, known, strict=True)
    ]


@register_r_forward(
    "OptionalGetValue",
    "TensorListConcat",
    "TensorListConcatV2",
    "TensorListFromTensor",
    "TensorListGather",
    "TensorListGetItem",
    "TensorListPopBack",
    "TensorListResize",
    "TensorListScatter",
    "TensorListScatterV2",
    "TensorListSplit",
    "TensorListStack",
)
def one_source(op):
    """Linear in the first input, a list or its entries; the others are places and sizes."""
    rest = list(op.inputs)[1:]

    def tangent_map(tangent, *_):
        if tangent is None:
            return [None] * len(op.outputs)
        return [
            t if carries_tangents(t) else None for t in replay(op, [tangent, *_constants(rest)])
        ]

    return tangent_map


@register_r_forward(
    "OptionalFromValue",
    "TensorListConcatLists",
    "TensorListPushBack",
    "TensorListPushBackBatch",
    "TensorListScatterIntoExistingList",
    "TensorListSetItem",
)
def list_and_entries(op):
    """Linear in the list and in the entries together; what has no tangent has a zero one."""

    def tangent_map(*tangents):
        filled = [
            value if not carries_tangents(value) else zeros_like(value) if t is None else t
            for value, t in zip(op.inputs, tangents, strict=True)
        ]
        return replay(op, _constants(filled))

    return tangent_map
