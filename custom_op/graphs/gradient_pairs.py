"""Finds the pairs of an operation's inputs and outputs that TensorFlow's gradient connects.

A gradient function may return None for an input, or leave the cotangent of an output unread. Tapes
and `tf.gradients` then drop that path silently, as long as another one exists.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op import fallback, registry
from custom_op import tensorflow_internals as internals
from custom_op.graphs.inner_graphs import ancestors


class Pair(enum.Enum):
    """The fate of the derivative of one output in one input."""

    PASSES = "passes"
    ZERO = "zero"  # rightly: the output is piecewise constant in the input
    MISSING = "missing"


# Operations whose gradients are complete; they need no trial.
_COMPLETE = frozenset(
    "Add AddV2 AddN Sub Mul RealDiv Neg Identity MatMul BatchMatMulV2 BatchMatMulV3 Reshape "
    "Squeeze ExpandDims Transpose Sum Mean Square Exp Log Log1p Tanh Sigmoid Softplus Sqrt "
    "Rsqrt Pack Unpack ConcatV2 Split SplitV Slice StridedSlice StridedSliceGrad BroadcastTo "
    "Tile Pad GatherV2 Relu TanhGrad SigmoidGrad SelectV2 Maximum Minimum SquaredDifference "
    "Conv2D Conv2DBackpropInput Conv2DBackpropFilter BiasAdd BiasAddGrad Softmax LogSoftmax "
    "Pow Cumsum Einsum".split()
)
# From its fourth input on, a fused normalization's gradient reads statistics of its own input;
# TensorFlow's second gradient accounts for them in the gradient of the input itself.
_FUSED = ("FusedBatchNormGrad", "FusedBatchNormGradV2", "FusedBatchNormGradV3")
# Operations whose gradients leave a cotangent unread although the output is not constant.
_HALF = frozenset({"CTCLoss", "CTCLossV2"})
_CONSTANT = frozenset({"ZerosLike", "OnesLike", "Shape", "ShapeN", "Size", "Rank"})

# By the positions of an input and of an output.
_Pairs = dict[tuple[int, int], Pair]

_known: dict[Any, _Pairs] = {}


def pairs(op: tf.Operation) -> dict[tuple[int, int], Pair]:
    """Returns the fate of each derivative of an operation that is no call, loop or branch.

    The operation's R-forward rule distinguishes missing derivatives from true zeros; without a
    rule they count as missing. Zeros of `tf.custom_gradient` and `tf.stop_gradient` are intended.

    Args:
      op: The operation.

    Returns:
      The fates by the positions of an input and an output that may have tangents.
    """
    inputs = [i for i, value in enumerate(op.inputs) if fallback.carries_tangents(value)]
    outputs = [k for k, value in enumerate(op.outputs) if fallback.carries_tangents(value)]
    each = [(i, k) for i in inputs for k in outputs]
    if not each or op.type in _COMPLETE and not registry.has_custom_gradient(op):
        return dict.fromkeys(each, Pair.PASSES)
    if op.type == "StopGradient" or op.type in _CONSTANT:
        return dict.fromkeys(each, Pair.ZERO)
    if registry.has_custom_gradient(op):
        with op.graph.as_default():
            reached = fallback.inputs_with_gradient(op)
        return {(i, k): Pair.PASSES if i in reached else Pair.ZERO for i, k in each}
    if op.type in fallback.WRONG:
        return dict.fromkeys(each, Pair.MISSING)
    key = _key(op)
    if key not in _known:
        _known[key] = _tried(op, inputs, outputs)
    return _known[key]


def _key(op: tf.Operation) -> tuple[Any, ...]:
    attributes = sorted(
        (name, value.SerializeToString())
        for name, value in op.node_def.attr.items()
        if not name.startswith("_") and value.WhichOneof("value") in ("b", "i", "s", "type")
    )
    ranks = tuple(value.shape.rank for value in op.inputs)
    return op.type, tuple(attributes), ranks


def _tried(op: tf.Operation, inputs: list[int], outputs: list[int]) -> _Pairs:
    try:
        differentiable = internals.gradient_function(op) is not None
    except LookupError:
        differentiable = False
    each = [(i, k) for i in inputs for k in outputs]
    lists = any(value.dtype == tf.variant for value in [*op.inputs, *op.outputs])
    if lists:
        return dict.fromkeys(each, Pair.PASSES if differentiable else Pair.MISSING)
    if op.type in _FUSED:
        return {(i, k): Pair.PASSES if i < 3 else Pair.ZERO for i, k in each}
    result = dict.fromkeys(each, Pair.MISSING)
    if differentiable:
        result |= _gradient_of(op, inputs, outputs)
    unclear = {i for (i, _), pair in result.items() if pair is not Pair.PASSES}
    for i in unclear:
        constant = _constant_in(op, i, outputs)
        for k in outputs:
            if result[i, k] is Pair.PASSES:
                continue
            if constant is not None:
                result[i, k] = Pair.ZERO if k in constant else Pair.MISSING
            elif op.type in _HALF:
                result[i, k] = Pair.MISSING
    return result


def _copy(op: tf.Operation) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Runs an operation again on placeholders, in the current graph; returns inputs and outputs."""
    inputs = []
    for value in op.inputs:
        known = None if fallback.carries_tangents(value) else tf.get_static_value(value)
        inputs.append(
            tf.compat.v1.placeholder(value.dtype, value.shape)
            if known is None
            else tf.constant(known, value.dtype)
        )
    return inputs, registry.replay(op, inputs)


def _gradient_of(op: tf.Operation, inputs: list[int], outputs: list[int]) -> _Pairs:
    """Returns the fate of each pair by TensorFlow's gradient, with zeros not yet judged."""
    fates: _Pairs = {}

    def trial() -> None:
        copied, results = _copy(op)
        seeds = [tf.compat.v1.placeholder(results[k].dtype, results[k].shape) for k in outputs]
        pulled = tf.gradients(
            [results[k] for k in outputs], [copied[i] for i in inputs], grad_ys=seeds
        )
        for i, value in zip(inputs, pulled, strict=True):
            if value is None:
                fates.update({(i, k): Pair.MISSING for k in outputs})
                continue
            # Explicit zeros count as intended, unless something else is known.
            behind = set(ancestors([tf.convert_to_tensor(value)]))
            for k, seed in zip(outputs, seeds, strict=True):
                fates[i, k] = Pair.PASSES if seed.op in behind else Pair.ZERO

    if not _traced(trial):
        # There is no evidence against it.
        return {(i, k): Pair.PASSES for i in inputs for k in outputs}
    return fates


def _constant_in(op: tf.Operation, i: int, outputs: list[int]) -> list[int] | None:
    """Returns the outputs that are constant in an input by its R-forward rule; None without one."""
    rule = registry.find_rule(op.type)
    still: list[int] = []
    if rule is None:
        return None

    def trial() -> None:
        copied, results = _copy(op)
        tangents = [None] * len(op.inputs)
        tangents[i] = tf.zeros_like(copied[i])
        pushed = rule(results[0].op)(*tangents)
        if pushed is None or tf.is_tensor(pushed):
            pushed = [pushed]
        pushed = [*pushed] + [None] * (len(results) - len(pushed))
        still.extend(k for k in outputs if pushed[k] is None)

    return still if _traced(trial) else None


def _traced(trial: Callable[[], None]) -> bool:
    """Runs a trial in a graph of its own; returns whether it succeeded."""
    graph = tf.Graph()
    try:
        with tf.init_scope(), graph.as_default():
            trial()
    except LookupError:
        return True  # A derivative that does not exist keeps the results so far.
    except Exception:  # noqa: BLE001
        return False
    return True
