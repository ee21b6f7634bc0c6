"""Rules for lists of tensors (`tf.TensorArray`, `tf.map_fn`, `tf.scan`) and optional tensors.

The tangent of a list is a list of the tangents of its entries; an entry that was never written has
none. Loops and branches store the tensors that their gradients read in such lists and in optionals.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from custom_op.fallback import carries_tangents
from custom_op.registry import LinearMap, register_r_forward, replay


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
    """Turns known indices and sizes into constants, which list operations need while traced."""
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
    "TensorListGetItem",
    "TensorListPopBack",
    "TensorListResize",
    "TensorListScatter",
    "TensorListScatterV2",
    "TensorListSplit",
    "TensorListStack",
)
def one_source(op: tf.Operation) -> LinearMap:
    """Linear in the first input, a list or its entries; the others are indices and sizes."""
    rest = list(op.inputs)[1:]

    def tangent_map(tangent: tf.Tensor | None, *_: None) -> list[tf.Tensor | None]:
        if tangent is None:
            return [None] * len(op.outputs)
        return [
            t if carries_tangents(t) else None for t in replay(op, [tangent, *_constants(rest)])
        ]

    return tangent_map


@register_r_forward(
    "OptionalFromValue",
    "TensorListPushBack",
    "TensorListScatterIntoExistingList",
    "TensorListSetItem",
)
def list_and_entries(op: tf.Operation) -> LinearMap:
    """Jointly linear in the list and the entries; missing tangents are zero."""
    return lambda *tangents: replay(op, _constants(_filled(op, tangents)))


def _filled(op: tf.Operation, tangents: Sequence[tf.Tensor | None]) -> list[tf.Tensor]:
    return [
        value if not carries_tangents(value) else zeros_like(value) if t is None else t
        for value, t in zip(op.inputs, tangents, strict=True)
    ]


@register_r_forward("TensorListGather")
def entries_of_list(op: tf.Operation) -> LinearMap:
    """Chosen entries of a list; linear in it."""
    # If an entry is chosen several times, TensorFlow's gradient keeps only the last cotangent, so
    # entries are gathered from a tensor unless they are known to differ.
    _, places, shape = op.inputs
    chosen = tf.get_static_value(places)
    if chosen is not None and len(set(chosen.tolist())) == chosen.size:
        return one_source(op)
    dtype = op.get_attr("element_dtype")

    def tangent_map(tangent: tf.Tensor | None, *_: None) -> tf.Tensor | None:
        if tangent is None:
            return None
        entries = tf.raw_ops.TensorListStack(
            input_handle=tangent, element_shape=_constants([shape])[0], element_dtype=dtype
        )
        return tf.gather(entries, places)

    return tangent_map


# TensorFlow marks the next two as not differentiable, and takes their gradients for zero. Their
# tangents are made of operations that have a gradient.


@register_r_forward("TensorListConcatLists")
def joined_lists(op: tf.Operation) -> LinearMap:
    """One list appended to another: jointly linear in both. Entries must have the same shape."""
    dtype = op.get_attr("element_dtype")

    def tangent_map(*tangents: tf.Tensor | None) -> tf.Tensor:
        stacked, shape = [], None
        for each in _filled(op, tangents):
            shape = tf.raw_ops.TensorListElementShape(input_handle=each, shape_type=tf.int32)
            stacked.append(
                tf.raw_ops.TensorListStack(
                    input_handle=each, element_shape=shape, element_dtype=dtype
                )
            )
        return tf.raw_ops.TensorListFromTensor(tensor=tf.concat(stacked, 0), element_shape=shape)

    return tangent_map


@register_r_forward("TensorListPushBackBatch")
def entries_behind_lists(op: tf.Operation) -> LinearMap:
    """An entry appended to each of several lists: jointly linear in lists and entries."""
    count = op.inputs[0].shape[0]

    def tangent_map(*tangents: tf.Tensor | None) -> tf.Tensor:
        lists, entries = _filled(op, tangents)
        longer = [
            tf.raw_ops.TensorListPushBack(input_handle=each, tensor=entry)
            for each, entry in zip(
                tf.unstack(lists, count),
                tf.unstack(entries, count),
                strict=True,
            )
        ]
        return tf.stack(longer)

    return tangent_map
