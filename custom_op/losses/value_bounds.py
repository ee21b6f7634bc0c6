"""Bounds of a symbolic tensor's values, derived from the ops that compute it.

A softmax lies between 0 and 1, and still does after pooling, slicing, averaging or permuting. This
recognizes outputs that are not logits even if the input of the softmax can no longer be recovered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from custom_op.graphs.inner_graphs import called_graph

Interval: TypeAlias = tuple[float, float]

ANYTHING: Interval = (-math.inf, math.inf)

_FIXED: dict[str, Interval] = {
    **dict.fromkeys(("Sigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Tanh", "Erf", "Sin", "Cos", "Softsign"), (-1.0, 1.0)),
    **dict.fromkeys(("Softplus", "Square", "Sqrt"), (0.0, math.inf)),
    "LogSoftmax": (-math.inf, 0.0),
    "Elu": (-1.0, math.inf),
    "ZerosLike": (0.0, 0.0),
    "OnesLike": (1.0, 1.0),
}
# Their values are among the first input's, or averages of them.
_FROM_FIRST = frozenset(
    "Identity StopGradient PreventGradient CheckNumerics EnsureShape Snapshot Reshape Squeeze "
    "ExpandDims Transpose StridedSlice Slice GatherV2 GatherNd Reverse ReverseV2 ReverseSequence "
    "Roll Tile BroadcastTo SplitV Unpack DepthToSpace SpaceToDepth MatrixDiagPartV3 MaxPool "
    "MaxPoolV2 MaxPool3D AvgPool AvgPool3D Mean Max Min TopKV2 ResizeBilinear "
    "ResizeNearestNeighbor".split()
)
_MAPPED: dict[str, Callable[[float], float]] = {  # increasing functions
    "Relu": lambda x: max(x, 0.0),
    "Relu6": lambda x: min(max(x, 0.0), 6.0),
    "Exp": lambda x: math.exp(min(x, 700.0)) if x < math.inf else math.inf,
}
# Networks are deeper than Python's stack; their last operations decide.
_DEPTH = 60


def bounds_of(tensor: tf.Tensor) -> Interval:
    """Returns two numbers between which the values of a tensor lie.

    Args:
      tensor: A symbolic tensor.

    Returns:
      The lower and the upper bound, infinite if unknown.
    """
    return _bounds(tensor, {}, 0)


def _bounds(tensor: tf.Tensor, known: dict[Any, Any], depth: int) -> Interval:
    key = tensor.ref()
    if key not in known:
        known[key] = ANYTHING  # a tensor does not depend on itself
        if depth < _DEPTH:
            known[key] = _bounds_of(tensor.op, tensor.value_index, known, depth + 1)
    return known[key]


def _bounds_of(op: tf.Operation, index: int, known: dict[Any, Any], depth: int) -> Interval:
    kind, inputs = op.type, list(op.inputs)

    def of(number: int) -> Interval:
        return _bounds(inputs[number], known, depth)

    if kind in _FIXED:
        return _FIXED[kind]
    if kind in _FROM_FIRST:
        return of(0) if index == 0 or kind in ("SplitV", "Unpack") else ANYTHING
    if kind in _MAPPED:
        low, high = of(0)
        return _MAPPED[kind](low), _MAPPED[kind](high)
    if kind == "Const":
        return _of_values(tf.get_static_value(op.outputs[index]))
    if kind == "Cast":
        if inputs[0].dtype == tf.bool:
            return 0.0, 1.0
        return of(0) if inputs[0].dtype.is_floating else ANYTHING
    if kind in ("PartitionedCall", "StatefulPartitionedCall"):
        return _bounds(called_graph(op).outputs[index], known, depth)
    if kind == "IdentityN":
        return of(index)
    if kind in ("Split", "Fill"):
        return of(1)
    if kind in ("Pack", "ConcatV2"):
        return _union(of(k) for k in range(len(inputs) - (kind == "ConcatV2")))
    if kind in ("Select", "SelectV2"):
        return _union((of(1), of(2)))
    if kind in ("Pad", "PadV2", "MirrorPad"):
        filler = {"Pad": (0.0, 0.0), "PadV2": of(2) if kind == "PadV2" else None}.get(kind)
        return of(0) if filler is None else _union((of(0), filler))
    if kind == "ClipByValue":
        (a, b), (least, _), (_, most) = of(0), of(1), of(2)
        return max(a, least), min(b, most)
    return _of_arithmetic(kind, [of(k) for k in range(len(inputs))] if inputs else [], op)


def _of_arithmetic(kind: str, bounds: list[Interval], op: tf.Operation) -> Interval:
    if kind in ("Add", "AddV2", "AddN"):
        return sum(low for low, _ in bounds), sum(high for _, high in bounds)
    if kind == "Sub":
        (a, b), (c, d) = bounds
        return a - d, b - c
    if kind == "Neg":
        return -bounds[0][1], -bounds[0][0]
    if kind == "Abs":
        low, high = bounds[0]
        return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))
    if kind == "Maximum":
        return max(a for a, _ in bounds), max(b for _, b in bounds)
    if kind == "Minimum":
        return min(a for a, _ in bounds), min(b for _, b in bounds)
    if kind == "Mul":
        return _of_values(np.array([_times(x, y) for x in bounds[0] for y in bounds[1]]))
    if kind == "RealDiv" and (bounds[1][0] > 0 or bounds[1][1] < 0):
        inverse = [1 / x for x in bounds[1]]
        return _of_values(np.array([_times(x, y) for x in bounds[0] for y in inverse]))
    if kind == "Sum" and op.inputs[0].shape.is_fully_defined():
        before, after = op.inputs[0].shape.num_elements(), op.outputs[0].shape.num_elements()
        if after:
            return _times(bounds[0][0], before / after), _times(bounds[0][1], before / after)
    return ANYTHING


def _times(x: float, y: float) -> float:
    return 0.0 if 0 in (x, y) else x * y


def _union(intervals: Iterable[Interval]) -> Interval:
    lows, highs = zip(*intervals, strict=True)
    return min(lows), max(highs)


def _of_values(values: np.ndarray | None) -> Interval:
    if values is None or not values.size or values.dtype.kind not in "fiub":
        return ANYTHING
    low, high = float(values.min()), float(values.max())
    return ANYTHING if math.isnan(low) or math.isnan(high) else (low, high)
