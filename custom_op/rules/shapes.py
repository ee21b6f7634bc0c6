"""Rules for operations that are linear in their floating inputs: the same operation again."""

from __future__ import annotations

import tensorflow as tf

from custom_op.registry import register_r_forward, replay


@register_r_forward(
    "AvgPool",
    "AvgPool3D",
    "BatchToSpaceND",
    "BroadcastTo",
    "Cumsum",
    "DepthToSpace",
    "EnsureShape",
    "ExpandDims",
    "Gather",
    "GatherNd",
    "GatherV2",
    "Identity",
    "MatrixDiagV3",
    "MatrixDiagPartV3",
    "Mean",
    "MirrorPad",
    "Neg",
    "Pad",
    "Reshape",
    "ReverseV2",
    "Roll",
    "Slice",
    "Snapshot",
    "SpaceToBatchND",
    "SpaceToDepth",
    "Squeeze",
    "StridedSlice",
    "Sum",
    "Tile",
    "Transpose",
    "Unpack",
    "SplitV",
)
def linear_in_first_input(op):
    rest = list(op.inputs)[1:]

    def tangent_map(tangent, *_):
        return None if tangent is None else replay(op, [tangent, *rest])

    return tangent_map


@register_r_forward("Split")
def split(op):
    # Inputs: the axis, then the value.
    return lambda _, tangent: replay(op, [op.inputs[0], tangent])


@register_r_forward("PadV2")
def pad(op):
    return lambda t, *_: None if t is None else tf.pad(t, op.inputs[1])


@register_r_forward("Pack", "ConcatV2", "IdentityN")
def linear_in_all_inputs(op):
    def tangent_map(*tangents):
        # What is not floating (the axis of a concatenation) stays as it is.
        filled = [
            value if not value.dtype.is_floating else tf.zeros_like(value) if t is None else t
            for value, t in zip(op.inputs, tangents, strict=True)
        ]
        outputs = replay(op, filled)
        if op.type != "IdentityN":
            return outputs
        return [None if t is None else y for t, y in zip(tangents, outputs, strict=True)]

    return tangent_map


@register_r_forward("Cast")
def cast(op):
    target = op.outputs[0].dtype
    return lambda t: tf.cast(t, target) if target.is_floating else None
