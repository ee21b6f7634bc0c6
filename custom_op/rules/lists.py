"""Rules for lists of tensors (`tf.TensorArray`, `tf.map_fn`, `tf.scan`) and optional tensors.

The tangent of a list is a list of the tangents of its entries; an entry that was never written has
none. Loops and branches keep in such lists, and in optionals, what their gradients read.
"""

from __future__ import annotations

import tensorflow as tf

from custom_op.fallback import carries_tangents
from custom_op.registry import register_r_forward, replay


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
        return [t if carries_tangents(t) else None for t in replay(op, [tangent, *rest])]

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
            value if not carries_tangents(value) else tf.zeros_like(value) if t is None else t
            for value, t in zip(op.inputs, tangents, strict=True)
        ]
        return replay(op, filled)

    return tangent_map
