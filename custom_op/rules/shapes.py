"""Rules for linear operations (reshaping, summing, padding, joining): the operation again."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from custom_op.fallback import carries_tangents
from custom_op.registry import LinearMap, Rule, register_r_forward, replay


def linear_in(position: int) -> Rule:
    """Returns the rule of an operation that is linear in one input and has no other tangents."""

    def rule(op: tf.Operation) -> LinearMap:
        def tangent_map(*tangents: tf.Tensor | None) -> list[tf.Tensor] | None:
            if tangents[position] is None:
                return None
            inputs = list(op.inputs)
            inputs[position] = tangents[position]
            return replay(op, inputs)

        return tangent_map

    return rule


@register_r_forward(
    "BatchToSpace",
    "BatchToSpaceND",
    "BiasAddGrad",
    "BroadcastTo",
    "Conj",
    "ConjugateTranspose",
    "Cumsum",
    "DepthToSpace",
    "Diag",
    "DiagPart",
    "EnsureShape",
    "ExpandDims",
    "ExtractImagePatches",
    "ExtractVolumePatches",
    "FFT",
    "FFT2D",
    "FFT3D",
    "IFFT",
    "IFFT2D",
    "IFFT3D",
    "IRFFT",
    "IRFFT2D",
    "Identity",
    "Imag",
    "MatrixBandPart",
    "MatrixDiag",
    "MatrixDiagPart",
    "Mean",
    "MirrorPad",
    "MirrorPadGrad",
    "Neg",
    "Pad",
    "RFFT",
    "RFFT2D",
    "Real",
    "Reshape",
    "ReverseSequence",
    "ReverseV2",
    "Roll",
    "SpaceToBatch",
    "SpaceToBatchND",
    "SpaceToDepth",
    "SplitV",
    "Squeeze",
    "Sum",
    "Tile",
    "Transpose",
    "Unpack",
)
def linear_in_first_input(op: tf.Operation) -> LinearMap:
    """R(A x) = A R(x); the other inputs are sizes, axes and indices."""
    return linear_in(0)(op)


@register_r_forward("Fill", "Split")
def linear_in_second_input(op: tf.Operation) -> LinearMap:
    """R(A x) = A R(x); the first input is a shape or an axis."""
    return linear_in(1)(op)


@register_r_forward("CheckNumerics", "PlaceholderWithDefault")
def unchanged(op: tf.Operation) -> LinearMap:
    """R(y) = R(x)."""
    del op
    return lambda t: t


@register_r_forward("PadV2", "MatrixDiagV2", "MatrixDiagV3", "MatrixDiagPartV2", "MatrixDiagPartV3")
def filled_with_a_value(op: tf.Operation) -> LinearMap:
    """The values x surrounded by a scalar c: R(x), surrounded by R(c)."""
    values, *between, _ = op.inputs

    def place(inside: tf.Tensor) -> tf.Tensor:
        return replay(op, [inside, *between, tf.zeros([], values.dtype)])[0]

    def tangent_map(inside: tf.Tensor | None, *rest: tf.Tensor | None) -> tf.Tensor:
        # In two parts, because TensorFlow's gradient of this operation leaves out c.
        around = rest[-1]
        terms = [] if inside is None else [place(inside)]
        if around is not None:
            terms.append((1 - place(tf.ones_like(values))) * around)
        return sum(terms[1:], terms[0])

    return tangent_map


@register_r_forward("Pack", "Concat", "ConcatV2", "Complex", "IdentityN", "MatrixSetDiag")
def linear_in_all_inputs(op: tf.Operation) -> LinearMap:
    """R(A [x, y, ...]) = A [R(x), R(y), ...]."""

    def tangent_map(*tangents: tf.Tensor | None) -> Sequence[tf.Tensor | None]:
        # Inputs without tangents (the axis of a concatenation) stay as they are.
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
def cast(op: tf.Operation) -> LinearMap:
    """The tangent is cast too; zero for dtypes without tangents, such as integers."""
    output = op.outputs[0]
    return lambda t: tf.cast(t, output.dtype) if carries_tangents(output) else None
