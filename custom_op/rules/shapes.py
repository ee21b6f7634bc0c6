"""Rules for operations that are linear in their floating inputs: the same operation again."""

from __future__ import annotations

import tensorflow as tf

from custom_op.fallback import carries_tangents
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
    "Mean",
    "MirrorPad",
    "Neg",
    "Pad",
    "Reshape",
    "ReverseV2",
    "Roll",
    "Slice",
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
    """R(A x) = A R(x); the other inputs are sizes, axes and indices."""
    rest = list(op.inputs)[1:]

    def tangent_map(tangent, *_):
        return None if tangent is None else replay(op, [tangent, *rest])

    return tangent_map


@register_r_forward("Split")
def split(op):
    """The tangent is split as the value is; the axis is the first input."""
    return lambda _, tangent: replay(op, [op.inputs[0], tangent])


@register_r_forward("PadV2", "MatrixDiagV3", "MatrixDiagPartV3")
def filled_with_a_value(op):
    """The values x, with a scalar c in the places that x leaves: R(x), and R(c) around it."""
    values, *between, _ = op.inputs

    def place(inside):
        return replay(op, [inside, *between, tf.zeros([], values.dtype)])[0]

    def tangent_map(inside, *rest):
        # In two parts: the gradient that TensorFlow has of this operation leaves out c.
        around = rest[-1]
        terms = [] if inside is None else [place(inside)]
        if around is not None:
            terms.append((1 - place(tf.ones_like(values))) * around)
        return sum(terms[1:], terms[0])

    return tangent_map


@register_r_forward("Pack", "ConcatV2", "IdentityN")
def linear_in_all_inputs(op):
    """R(A [x, y, ...]) = A [R(x), R(y), ...]."""

    def tangent_map(*tangents):
        # What has no tangent (the axis of a concatenation) stays as it is.
        filled = [
            value if not carries_tangents(value) else tf.zeros_like(value) if t is None else t
            for value, t in zip(op.inputs, tangents, strict=True)
        ]
        outputs = replay(op, filled)
        if op.type != "IdentityN":
            return outputs
        return [None if t is None else y for t, y in zip(tangents, outputs, strict=True)]

    return tangent_map


@register_r_forward("Cast")
def cast(op):
    """The tangent is cast too; zero for what is not differentiated, such as integers."""
    output = op.outputs[0]
    return lambda t: tf.cast(t, output.dtype) if carries_tangents(output) else None
