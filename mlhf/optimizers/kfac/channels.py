"""Where a vector's entries go: along which axis of a tensor each scales or shifts a channel."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

# Elementwise functions of one input.
_UNARY = {
    "Abs", "Cast", "CheckNumerics", "Cos", "Elu", "EnsureShape", "Erf", "Exp", "Expm1", "Identity",
    "Inv", "LeakyRelu", "Log", "Log1p", "Neg", "Reciprocal", "Relu", "Relu6", "Rsqrt", "Selu",
    "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Square", "StopGradient", "Tanh",
}  # fmt: skip
# Elementwise functions of several inputs, broadcast.
_BROADCAST = {
    "Add", "AddN", "AddV2", "Div", "DivNoNan", "Maximum", "Minimum", "Mul", "MulNoNan", "Pow",
    "RealDiv", "Select", "SelectV2", "SquaredDifference", "Sub", "Xdivy",
}  # fmt: skip
_RESHAPES = {"ExpandDims", "Reshape", "Squeeze"}
_NORMALIZATIONS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}


class Axes(NamedTuple):
    """The axes from `start` to before `stop`, which together count the vector's entries."""

    start: int
    stop: int


def follow(vector: tf.Tensor, operations: list[Any]) -> dict[Any, Axes | None]:
    """Follows a vector [n] through operations.

    Args:
      vector: A tensor of the graph.
      operations: Operations of that graph, in their order.

    Returns:
      For each tensor that depends on the vector, by its `ref()`, the axes along which element c
      depends on entry c of the vector only; None if there are none, or they are unknown.
    """
    reached: dict[Any, Axes | None] = {vector.ref(): Axes(0, 1)}
    for op in operations:
        if not any(value.ref() in reached for value in op.inputs):
            continue
        if op.type == "IdentityN":
            axes = [reached.get(value.ref()) for value in op.inputs]
        else:
            axes = [_after(op, reached), *[None] * (len(op.outputs) - 1)]
        reached.update(zip((value.ref() for value in op.outputs), axes, strict=True))
    return reached


def _after(op: Any, found: dict[Any, Axes | None]) -> Axes | None:
    """Returns the axes in an operation's first output."""
    reached: dict[int, Axes] = {}
    for place, value in enumerate(op.inputs):
        if value.ref() in found:
            axes = found[value.ref()]
            if axes is None:
                return None
            reached[place] = axes
    output = op.outputs[0].shape
    if not _known(output, *(op.inputs[place].shape for place in reached)):
        return None
    if op.type in _UNARY and set(reached) == {0}:
        return reached[0]
    if op.type in _RESHAPES and set(reached) == {0}:
        return _reshaped(op.inputs[0].shape.as_list(), reached[0], output.as_list())
    if op.type == "Transpose" and set(reached) == {0}:
        order = tf.get_static_value(op.inputs[1])
        if order is None or reached[0].stop - reached[0].start != 1:
            return None
        axis = order.tolist().index(reached[0].start)
        return Axes(axis, axis + 1)
    if op.type in ("BiasAdd", *_NORMALIZATIONS):
        axis = 1 if op.get_attr("data_format").startswith(b"NC") else output.rank - 1
        images, vector = Axes(axis, axis + 1), Axes(0, 1)
        allowed = {0: images, 1: vector} if op.type == "BiasAdd" else {1: vector, 2: vector}
        return images if all(allowed.get(place) == a for place, a in reached.items()) else None
    if op.type in _BROADCAST or (op.type == "BroadcastTo" and set(reached) == {0}):
        return _broadcast([(op.inputs[p].shape, axes) for p, axes in reached.items()], output)
    return None


def _broadcast(inputs: list[tuple[tf.TensorShape, Axes]], output: tf.TensorShape) -> Axes | None:
    """Returns the axes after broadcasting, which aligns the last axes."""
    places = set()
    for shape, axes in inputs:
        shift = output.rank - shape.rank
        moved = Axes(axes.start + shift, axes.stop + shift)
        if output[moved.start : moved.stop] != shape[axes.start : axes.stop]:
            return None
        places.add(moved)
    return places.pop() if len(places) == 1 else None


def _reshaped(before: list[int], axes: Axes, after: list[int]) -> Axes | None:
    """Returns the axes with as many elements in and before them, if possible without axes of 1."""
    size = math.prod(before[axes.start : axes.stop])
    outer = math.prod(before[: axes.start])
    fitting = [
        Axes(start, stop)
        for start in range(len(after))
        for stop in range(start + 1, len(after) + 1)
        if math.prod(after[:start]) == outer and math.prod(after[start:stop]) == size
    ]
    return min(fitting, key=lambda found: (found.stop - found.start, -found.start), default=None)


def _known(*shapes: tf.TensorShape) -> bool:
    return all(shape.is_fully_defined() for shape in shapes)
