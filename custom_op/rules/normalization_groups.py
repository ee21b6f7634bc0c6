"""Finds normalizations that are written out in plain operations, as layers do.

Batch, layer and group normalization all compute y = γ (x - mean) / sqrt(variance + ε) + β, in
different orders: ((x - mean) r) γ + β, or x (r γ) + (β - mean r γ). They are recognized by what
they compute. Each tensor on the way is a sum of at most three terms, in x, in the mean and in
neither, each with a sign and factors; if the first two have r and the same γ and opposite signs, it
is a normalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op.linear_maps.grouping import Group, Readers
from custom_op.registry import has_custom_gradient
from custom_op.rules import moments, standardization

_X, _MEAN, _REST = "x", "mean", "rest"
# A coefficient: its sign, and the names of the tensors that are its factors.
_Term = tuple[int, tuple[str, ...]]
_Form = dict[str, _Term]
_RESHAPES = ("Identity", "Reshape", "Squeeze", "ExpandDims")


class _Statistics(NamedTuple):
    """The mean and the inverse standard deviation of a tensor, as operations compute them."""

    x: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    epsilon: float
    axes: tuple[int, ...]
    exact: bool  # whether the mean is not stopped
    root: tf.Operation
    shape: tf.TensorShape  # that of mean and variance, with the axes kept


def groups(
    operations: Sequence[tf.Operation], readers: Readers, taken: set[str]
) -> dict[str, Group]:
    """Finds normalizations, with a following ReLU if there is one.

    Args:
      operations: All operations that tangents may pass.
      readers: The readers of each tensor among them.
      taken: The names of operations that belong to other groups.

    Returns:
      The groups by the name of their last operation.
    """
    found: dict[str, Group] = {}
    for op in operations:
        if op.type == "Rsqrt" and not has_custom_gradient(op):
            statistics = _statistics(op)
            if statistics is not None:
                found |= _group(statistics, operations, readers, taken)
    return found


def _statistics(root: tf.Operation) -> _Statistics | None:
    """Recognizes r = rsqrt(mean((x - mean(x))²) + ε)."""
    total = root.inputs[0].op
    if total.type not in ("Add", "AddV2"):
        return None
    for value, constant in (total.inputs, reversed(total.inputs)):
        epsilon = tf.get_static_value(constant)
        if epsilon is None or epsilon.size != 1:
            continue
        variance = _origin(value)
        square = variance.op.inputs[0].op if variance.op.type == "Mean" else None
        if square is None:
            continue
        stopped = False
        if square.type == "SquaredDifference":
            x, subtracted = square.inputs[0], moments.unstopped(square)
            stopped = subtracted is not square.inputs[1]
        elif square.type == "Square" and square.inputs[0].op.type == "Sub":
            x, subtracted = square.inputs[0].op.inputs
        else:
            continue
        mean, axes = _origin(subtracted), _axes(variance.op)
        if mean.op.type != "Mean" or mean.op.inputs[0] is not x or axes is None:
            continue
        if _axes(mean.op) != axes or not x.dtype.is_floating:
            continue
        kept = tf.TensorShape([1 if i in axes else n for i, n in enumerate(x.shape.as_list())])
        if any(map(has_custom_gradient, (total, variance.op, square, mean.op))):
            continue
        # The subtracted mean must broadcast along the axes that it was taken over.
        if not kept.is_fully_defined() or _wide(subtracted, x.shape.rank) != kept:
            continue
        return _Statistics(
            x, mean, variance, float(epsilon.reshape(())), axes, not stopped, root, kept
        )
    return None


def _origin(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor that a chain of reshapes begins with."""
    while tensor.op.type in _RESHAPES:
        tensor = tensor.op.inputs[0]
    return tensor


def _axes(mean: tf.Operation) -> tuple[int, ...] | None:
    axes, rank = tf.get_static_value(mean.inputs[1]), mean.inputs[0].shape.rank
    if axes is None or rank is None:
        return None
    return tuple(sorted({int(axis) % rank for axis in axes.reshape(-1)}))


def _wide(tensor: tf.Tensor, rank: int) -> tf.TensorShape | None:
    """Returns the shape as it broadcasts against a tensor of a rank."""
    if tensor.shape.rank is None or tensor.shape.rank > rank:
        return None
    return tf.TensorShape([1] * (rank - tensor.shape.rank)).concatenate(tensor.shape)


class _Forms:
    """Tensors in terms of x, its mean and r."""

    def __init__(self, statistics: _Statistics) -> None:
        self._statistics = statistics
        self.root = statistics.root.outputs[0].name
        self.tensors: dict[str, tf.Tensor] = {}
        self._forms: dict[str, _Form] = {
            statistics.x.name: {_X: (1, ())},
            statistics.mean.name: {_MEAN: (1, ())},
            self.root: {_REST: (1, (self.root,))},
        }

    def read(self, op: tf.Operation) -> _Form | None:
        """Returns the form of an operation's output, if it has one, and remembers it."""
        if not any(value.name in self._forms for value in op.inputs) or has_custom_gradient(op):
            return None
        form = self._form(op)
        if form is not None:
            self._forms[op.outputs[0].name] = form
        return form

    def _form(self, op: tf.Operation) -> _Form | None:
        inputs = list(op.inputs)
        if op.type in _RESHAPES:
            # Without reordering, and only before any broadcasting.
            form = self._forms.get(inputs[0].name)
            plain = form in ({_MEAN: (1, ())}, {_REST: (1, (self.root,))})
            return form if plain and _same_size(op) else None
        if op.type == "Neg":
            return _negative(self._forms[inputs[0].name])
        if op.type not in ("Add", "AddV2", "Sub", "Mul", "BiasAdd"):
            return None
        if op.type == "BiasAdd" and op.get_attr("data_format") != b"NHWC":
            return None
        a, b = (self._operand(value) for value in inputs)
        if a is None or b is None:
            return None
        if op.type == "Mul":
            return _product(a, b)
        return _sum(a, _negative(b) if op.type == "Sub" else b)

    def _operand(self, value: tf.Tensor) -> _Form | None:
        form = self._forms.get(value.name)
        if form is None:
            self.tensors[value.name] = value
            return {_REST: (1, (value.name,))}
        statistic = _MEAN in form and _X not in form
        statistic |= any(self.root in factors for _, factors in form.values()) and _X not in form
        rank = self._statistics.x.shape.rank
        if statistic and not _fits(_wide(value, rank), self._statistics.shape):
            return None
        return form

    def normalization(self, form: _Form | None) -> tuple[str | None, str | None] | None:
        """Returns the names of γ and β (or None), if a form is γ x̂ + β."""
        if form is None or _X not in form or _MEAN not in form:
            return None
        (sign, factors), (opposite, same) = form[_X], form[_MEAN]
        if sign != 1 or opposite != -1 or sorted(factors) != sorted(same):
            return None
        others = [name for name in factors if name != self.root]
        if factors.count(self.root) != 1 or len(others) > 1:
            return None
        beta: str | None = None
        if _REST in form:
            sign, rest = form[_REST]
            if sign != 1 or len(rest) != 1 or rest[0] == self.root:
                return None
            beta = rest[0]
        return (others[0] if others else None), beta


def _same_size(op: tf.Operation) -> bool:
    size = op.inputs[0].shape.num_elements()
    return size is not None and size == op.outputs[0].shape.num_elements()


def _fits(shape: tf.TensorShape | None, kept: tf.TensorShape) -> bool:
    """Whether a statistic broadcasts along the axes that it was taken over."""
    if shape is None:
        return False
    # After a product with γ it may have more entries along the others.
    return all(n in (1, size) or size == 1 for n, size in zip(shape, kept, strict=True)) and all(
        n == size for n, size in zip(shape, kept, strict=True) if size != 1
    )


def _negative(form: _Form) -> _Form:
    return {basis: (-sign, factors) for basis, (sign, factors) in form.items()}


def _product(a: _Form, b: _Form) -> _Form | None:
    if set(a) == {_REST}:
        a, b = b, a
    if set(b) != {_REST}:
        return None
    sign, factors = b[_REST]
    return {basis: (sign * s, f + factors) for basis, (s, f) in a.items()}


def _sum(a: _Form, b: _Form) -> _Form | None:
    return None if set(a) & set(b) else {**a, **b}


def _group(
    statistics: _Statistics,
    operations: Sequence[tf.Operation],
    readers: Readers,
    taken: set[str],
) -> dict[str, Group]:
    """Returns the group of the last operation that belongs to the normalization."""
    forms = _Forms(statistics)
    members: list[tf.Operation] = []
    inner = _inner(statistics)
    last: tf.Operation | None = None
    parts: tuple[str | None, str | None] = (None, None)
    count = 0
    for op in operations:
        form = None if op.name in taken else forms.read(op)
        if form is not None or op.name in inner:
            members.append(op)
        found = forms.normalization(form)
        if found is not None and op.outputs[0].shape == statistics.x.shape:
            last, parts, count = op, found, len(members)
    if last is None:
        return {}
    gamma, beta = (None if name is None else forms.tensors[name] for name in parts)
    gate, members = None, members[:count]
    relu = readers.only(last.outputs[0])
    if relu is not None and relu.type == "Relu" and relu.name not in taken:
        if not has_custom_gradient(relu):
            members.append(relu)
            last, gate = relu, relu.outputs[0]
    reads = [statistics.x, *(value for value in (gamma, beta) if value is not None)]
    tangent_map = _tangent_map(statistics, gamma, beta, gate)
    return {last.name: Group(reads, readers.hidden(members, last), tangent_map)}


def _inner(statistics: _Statistics) -> set[str]:
    """Returns the names of the operations that compute the statistics."""
    found: set[str] = set()
    stack = [statistics.root.outputs[0]]
    while stack:
        tensor = stack.pop()
        if tensor is not statistics.x and tensor.op.name not in found:
            found.add(tensor.op.name)
            stack.extend(tensor.op.inputs)
    return found


def _tangent_map(
    statistics: _Statistics,
    gamma: tf.Tensor | None,
    beta: tf.Tensor | None,
    gate: tf.Tensor | None,
) -> Any:
    x, axes = statistics.x, list(statistics.axes)
    mean = tf.reshape(statistics.mean, statistics.shape)
    variance = tf.reshape(statistics.variance, statistics.shape)
    if not statistics.exact:
        # TensorFlow's second derivative of a variance with a stopped mean is wrong.
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=True)
    scale = tf.math.rsqrt(variance + tf.constant(statistics.epsilon, x.dtype))
    derivative = standardization.derivative((x - mean) * scale, scale, gamma, axes, gate)

    def tangent_map(tangent: tf.Tensor | None, *others: tf.Tensor | None) -> tf.Tensor | None:
        rest = iter(others)
        to_gamma = None if gamma is None else next(rest)
        to_beta = None if beta is None else next(rest)
        return derivative(tangent, to_gamma, to_beta)

    return tangent_map
