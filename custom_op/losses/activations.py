"""Recognizes outputs that have already passed their loss's activation, such as a softmax.

A loss from logits applies the softmax itself. Given probabilities it computes a number that looks
like a loss but trains badly: with the softmax of a softmax it can't fall below log(1 + (K-1)/e).
In a traced network the activation can be found, and its input too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import losses
from custom_op import tensorflow_internals as internals
from custom_op.graphs.inner_graphs import called_graph
from custom_op.losses import value_bounds

# The ops that losses apply to their outputs, by the names that messages use.
ACTIVATIONS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "exponential": "Exp"}

_RATES = ("Softplus", "Relu")
_SAME_VALUES = ("Identity", "EnsureShape", "CheckNumerics", "Cast")
_SAME_ROWS = ("Reshape", "Squeeze", "ExpandDims", "Transpose", "StridedSlice")
_FAR = 200  # tensors to look back: earlier ones do not matter, and Python's stack is short
_ROUNDING = 1e-3  # what may be added to probabilities before a logarithm, or clipped
_OF_NUMBERS: dict[str, Callable[..., Any]] = {
    "ConcatV2": lambda *parts: np.concatenate(parts[:-1]),
    "Pack": lambda *parts: np.stack(parts),
    "Range": np.arange,
    "Sub": np.subtract,
    "AddV2": np.add,
}
_NONNEGATIVE = ("Exp", "Softplus", "Relu", "Relu6", "Sigmoid", "Square", "Abs")


def before(outputs: tf.Tensor, activation: str) -> tf.Tensor | None:
    """Returns the input of the activation that computed outputs, in the outputs' form.

    Args:
      outputs: A symbolic tensor; an eager one has no history.
      activation: A key of `ACTIVATIONS`.

    Returns:
      z with outputs = activation(z), exactly, or None if the outputs do not end in the activation.
      Casts, transposes, and reshapes that preserve the last axis may follow it.
    """
    path = []
    tensor, rank = outputs, outputs.shape.rank
    # The axis that a softmax must be over; None for an elementwise activation.
    axis = rank - 1 if activation == "softmax" and rank else None
    while tensor.op.type != ACTIVATIONS[activation]:
        if axis is not None and tensor.op.type == "Exp":
            break
        if not _passes(tensor.op, axis):
            return None
        path.append(tensor)
        axis = _axis_before(tensor.op, axis)
        tensor = tensor.op.inputs[0]
    inner = tensor.op.inputs[0]
    if axis is not None and axis != (tensor.shape.rank or 0) - 1:
        return None
    # Logarithms of probabilities are logits.
    if activation == "softmax" and tensor.op.type == "Exp" and inner.op.type != "LogSoftmax":
        return None
    for later in reversed(path):
        inner = _again(later.op, inner)
    return inner


def ends_in(outputs: tf.Tensor) -> str | None:
    """Returns the activation that computed outputs.

    It is found even if it can't be undone: averages of softmaxes, clipped softmaxes,
    exp(z) / Σ exp(z), activations inside a called function.

    Args:
      outputs: A symbolic tensor; for an eager one the result is None.

    Returns:
      A key of `ACTIVATIONS` or None.
    """
    if internals.is_eager(outputs):
        return None
    found = _mass(outputs, {})
    if found is not None and abs(found[1] - 1) < 1e-6:
        return found[0]
    return None


def activation_of(loss: losses.Loss) -> str | None:
    """Returns the activation that a loss applies to outputs itself, None for none."""
    if isinstance(loss, losses.SoftmaxCrossEntropy):
        return "softmax"
    if isinstance(loss, losses.SigmoidCrossEntropy):
        return "sigmoid"
    return "exponential" if isinstance(loss, losses.Poisson) else None


def wrong_for(outputs: tf.Tensor, activation: str) -> str | None:
    """Describes outputs that are wrong for a loss that applies an activation itself.

    Args:
      outputs: A symbolic tensor; for an eager one the result is None.
      activation: The activation that the loss applies.

    Returns:
      Words for a message; None if nothing is wrong.
    """
    if internals.is_eager(outputs):
        return None
    found = ends_in(outputs)
    low, high = value_bounds.bounds_of(outputs)
    if activation == "exponential":
        if found == "exponential" or outputs.op.type in _RATES:
            return f"rates ({outputs.op.type})"
        return "rates (of at least 0)" if low >= 0 and high == math.inf else None
    if found in ("softmax", "sigmoid"):
        return f"probabilities (of a {found})"
    # Logits in this range could hardly separate two classes. One constant is no probability but a
    # mistake, which a gradient of zero shows.
    within = low >= -_ROUNDING and high <= 1 + _ROUNDING
    return "numbers from 0 to 1" if within and low < high else None


def check(outputs: Any, loss: losses.Loss) -> None:
    """Checks that a function's outputs have not passed the activation of a cross entropy.

    Args:
      outputs: The function's result; checked if it is a symbolic tensor.
      loss: The loss.

    Raises:
      ValueError: If they have passed it.
    """
    activation = activation_of(loss)
    # Log rates that are exponentials may be intended.
    if activation in (None, "exponential") or not isinstance(outputs, tf.Tensor):
        return
    wrong = wrong_for(outputs, activation)
    if wrong:
        raise ValueError(
            f"Expected a network that returns outputs from before their {activation}, which "
            f"{type(loss).__name__} takes itself, got one that returns {wrong}; return what goes "
            "into it."
        )


def checked(function: Callable[..., tf.Tensor], loss: losses.Loss) -> Callable[..., tf.Tensor]:
    """Returns a function with the same outputs, which checks them when it is traced."""

    @functools.wraps(function)
    def run(*arguments: Any) -> tf.Tensor:
        outputs = function(*arguments)
        check(outputs, loss)
        return outputs

    return run


def _passes(op: tf.Operation, axis: int | None) -> bool:
    """Whether an op passes its first input's values on, keeping a given axis whole."""
    if op.type == "Cast":
        return op.inputs[0].dtype.is_floating and op.outputs[0].dtype.is_floating
    if op.type in _SAME_VALUES:
        return True
    if op.type not in _SAME_ROWS:
        return False
    if axis is None:
        return True
    if op.type == "Transpose":
        return _known_order(op.inputs[1]) is not None
    before, after = op.inputs[0].shape, op.outputs[0].shape
    if not before.rank or not after.rank or axis != after.rank - 1:
        return False
    return before[-1] is not None and before[-1] == after[-1]


def _axis_before(op: tf.Operation, axis: int | None) -> int | None:
    """Returns the input axis that an output axis of an op of `_passes` corresponds to."""
    if axis is None or op.type in _SAME_VALUES:
        return axis
    if op.type == "Transpose":
        order = _known_order(op.inputs[1])
        return None if order is None else int(order[axis])
    return (op.inputs[0].shape.rank or 0) - 1


def _known_order(order: tf.Tensor) -> np.ndarray | None:
    """Returns a permutation's value, even if `tf.nn.softmax(axis=)` computes it."""
    known, op = tf.get_static_value(order), order.op
    if known is not None or op.type not in _OF_NUMBERS:
        return known
    parts = [_known_order(part) for part in op.inputs]
    if any(part is None for part in parts):
        return None
    return _OF_NUMBERS[op.type](*parts)


def _again(op: tf.Operation, tensor: tf.Tensor) -> tf.Tensor:
    """Applies an op of `_passes` to another tensor."""
    if op.type == "Cast":
        return tf.cast(tensor, op.outputs[0].dtype)
    if op.type in _SAME_VALUES:
        return tensor
    if op.type == "Squeeze":
        return tf.squeeze(tensor, op.get_attr("squeeze_dims") or None)
    if op.type == "StridedSlice":
        masks = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
        settings = {f"{name}_mask": op.get_attr(f"{name}_mask") for name in masks}
        begin, end, strides = op.inputs[1:]
        return tf.raw_ops.StridedSlice(
            input=tensor, begin=begin, end=end, strides=strides, **settings
        )
    again = {"Reshape": tf.reshape, "ExpandDims": tf.expand_dims, "Transpose": tf.transpose}
    return again[op.type](tensor, op.inputs[1])


def _mass(tensor: tf.Tensor, known: dict[Any, Any]) -> tuple[str, float] | None:
    """Returns (activation, c) if a tensor is c times a convex combination of its values."""
    key = tensor.ref()
    if key not in known:
        known[key] = None  # a tensor does not depend on itself
        if len(known) > _FAR:
            return None
        known[key] = _mass_of(tensor.op, tensor.value_index, known)
    return known[key]


def _mass_of(op: tf.Operation, index: int, known: dict[Any, Any]) -> tuple[str, float] | None:
    for name, kind in ACTIVATIONS.items():
        if op.type == kind:
            # Multiples of rates are rates of something else, and irrelevant here.
            return name, 1.0
    if op.type == "IdentityN":
        return _mass(op.inputs[index], known)
    last = (op.outputs[index].shape.rank or 0) - 1
    if _passes(op, last) and _axis_before(op, last) == (op.inputs[0].shape.rank or 0) - 1:
        return _mass(op.inputs[0], known)
    if op.type in ("ConcatV2", "Pack"):
        parts = list(op.inputs)[: -1 if op.type == "ConcatV2" else None]
        if _joins_last(op):
            return None
        masses = {_mass(part, known) for part in parts}
        return masses.pop() if len(masses) == 1 else None
    if op.type in ("PartitionedCall", "StatefulPartitionedCall"):
        return _mass(called_graph(op).outputs[index], known)
    if op.type in ("Maximum", "Minimum"):
        return _with_constant(op, known, lambda mass, _: mass)
    if op.type == "Mul":
        return _with_constant(op, known, lambda mass, c: mass * c)
    if op.type == "RealDiv":
        a, b = op.inputs
        if _is_sum_of_rows(b, a):
            return "softmax", 1.0
        scale = tf.get_static_value(b)
        found = _mass(a, known)
        if found is None or scale is None or scale.size != 1:
            return None
        return found[0], found[1] / float(scale.item())
    if op.type in ("AddV2", "Add", "AddN"):
        terms = [_mass(term, known) for term in op.inputs]
        kinds = {term[0] for term in terms if term is not None}
        if None in terms or len(kinds) != 1:
            return None
        return kinds.pop(), sum(term[1] for term in terms if term is not None)
    if op.type in ("Mean", "Sum"):
        return _reduced(op, known)
    return None


def _joins_last(op: tf.Operation) -> bool:
    rank = op.outputs[0].shape.rank
    axis = op.get_attr("axis") if op.type == "Pack" else tf.get_static_value(op.inputs[-1])
    return rank is None or axis is None or int(axis) % rank == rank - 1


def _with_constant(
    op: tf.Operation, known: dict[Any, Any], combine: Callable[[float, float], float]
) -> tuple[str, float] | None:
    for value, other in (tuple(op.inputs), tuple(op.inputs)[::-1]):
        found, constant = _mass(value, known), tf.get_static_value(other)
        if found is not None and constant is not None and constant.size == 1:
            return found[0], combine(found[1], float(constant.item()))
    return None


def _is_sum_of_rows(sums: tf.Tensor, values: tf.Tensor) -> bool:
    """Whether a tensor is the sum over another's last axis, kept, of nonnegative values."""
    op = sums.op
    if op.type != "Sum" or not op.get_attr("keep_dims") or op.inputs[0] is not values:
        return False
    axes = tf.get_static_value(op.inputs[1])
    rank = values.shape.rank
    if axes is None or rank is None or [int(a) % rank for a in axes.reshape(-1)] != [rank - 1]:
        return False
    return values.op.type in _NONNEGATIVE


def _reduced(op: tf.Operation, known: dict[Any, Any]) -> tuple[str, float] | None:
    found, axes = _mass(op.inputs[0], known), tf.get_static_value(op.inputs[1])
    shape = op.inputs[0].shape
    if found is None or axes is None or not shape.rank:
        return None
    reduced = [int(axis) % shape.rank for axis in axes.reshape(-1)]
    if shape.rank - 1 in reduced:
        return None
    if op.type == "Mean":
        return found
    sizes = [shape[axis] for axis in reduced]
    if None in sizes:
        return None
    product = 1
    for size in sizes:
        product *= size
    return found[0], found[1] * product
