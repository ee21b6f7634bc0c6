"""Operations that work element by element, with NumPy's broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from custom_op.graphs.batching.table import batches
from custom_op.graphs.batching.values import (
    Batched,
    Diagonal,
    NoRuleError,
    Value,
    aligned,
    is_varied,
    run,
    together,
)

# Linear in one operand: zero where that is.
_FACTORS = {"Mul": (0, 1), "MulNoNan": (0,), "RealDiv": (0,), "Div": (0,), "DivNoNan": (0,)}
# Gradients g f'(y) of TensorFlow's activations, whose kernels do not broadcast: the position of g.
_SLOPES = {
    "EluGrad": 0,
    "InvGrad": 1,
    "LeakyReluGrad": 0,
    "ReciprocalGrad": 1,
    "Relu6Grad": 0,
    "ReluGrad": 0,
    "RsqrtGrad": 1,
    "SeluGrad": 0,
    "SigmoidGrad": 1,
    "SoftplusGrad": 0,
    "SoftsignGrad": 0,
    "SqrtGrad": 1,
    "TanhGrad": 1,
}


@batches(
    *("Cast", "Conj", "Identity", "Neg", "PreventGradient", "Snapshot", "StopGradient"),
    *("CheckNumerics", "ZerosLike"),
)
def linear(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A function of one tensor that is zero at zero."""
    (value,) = values
    return [value._replace(tensor=run(op, [value.tensor])[0])]


@batches(
    *("Abs", "Cos", "Cosh", "Erf", "Exp", "Expm1", "Imag", "Log", "Log1p", "Real", "Reciprocal"),
    *("Relu", "Relu6", "Rsqrt", "Selu", "Elu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus"),
    *("Softsign", "Sqrt", "Square", "Tan", "Tanh", "OnesLike", "LeakyRelu", "LogicalNot"),
)
def of_one(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A function of one tensor."""
    tensors, axis = together(values, count)
    return [Batched(run(op, tensors)[0], axis)]


@batches(
    *("Maximum", "Minimum", "Pow", "SquaredDifference", "Xdivy", "Xlogy", "Equal", "NotEqual"),
    *("Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr", "SelectV2"),
)
def broadcast(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A function of several tensors."""
    tensors, axis = aligned(values, op.outputs[0].shape.rank)
    return [Batched(run(op, tensors)[0], axis)]


@batches(*_FACTORS)
def factor(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A product or a quotient, zero where one operand is."""
    varied = [i for i, value in enumerate(values) if is_varied(value)]
    if len(varied) == 1 and varied[0] in _FACTORS[op.type]:
        value, rank = values[varied[0]], op.outputs[0].shape.rank
        if isinstance(value, Diagonal):
            missing = rank - value.tensor.shape.rank
            axis = value.axis + missing
            if op.outputs[0].shape[axis] == value.tensor.shape[value.axis]:
                tensors = [v.tensor if is_varied(v) else v for v in values]
                return [value._replace(tensor=run(op, tensors)[0], axis=axis)]
    return broadcast(op, values, count)


@batches("Add", "AddV2", "AddN", "Sub", "BiasAdd")
def addition(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A sum or a difference."""
    if op.type == "BiasAdd":
        values = [values[0], _along_channels(op, values[1])]
    add = tf.subtract if op.type == "Sub" else tf.add
    first = values[0]
    if isinstance(first, Diagonal) and all(
        isinstance(value, Diagonal)
        and value[1:] == first[1:]
        and value.tensor.shape == first.tensor.shape
        for value in values
    ):
        return [first._replace(tensor=functools.reduce(add, [v.tensor for v in values]))]
    tensors, axis = aligned(values, op.outputs[0].shape.rank)
    total = functools.reduce(add, tensors)
    return [Batched(total, axis)]


def _along_channels(op: tf.Operation, bias: Value) -> Value:
    """Returns a bias such that it broadcasts against what it is added to."""
    if not op.get_attr("data_format").startswith(b"NC"):
        return bias
    axes = op.outputs[0].shape.rank - 2

    def shaped(tensor: tf.Tensor) -> tf.Tensor:
        for _ in range(axes):
            tensor = tensor[..., tf.newaxis]
        return tensor

    if not is_varied(bias):
        return shaped(bias)
    tensors, axis = aligned([bias], 1)
    tensor = tf.transpose(tensors[0]) if axis else tensors[0]
    return Batched(shaped(tensor), 0)


@batches(*_SLOPES)
def activation_gradient(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """The product of a slope, which is fixed by the values, and a gradient."""
    position = _SLOPES[op.type]
    gradient, at = values[position], values[1 - position]
    if not is_varied(gradient) or is_varied(at):
        tensors, axis = together(values, count)
        return [Batched(run(op, tensors)[0], axis)]
    inputs = [at, at]
    inputs[position] = tf.ones_like(at)
    slope = run(op, inputs)[0]
    if isinstance(gradient, Diagonal):
        return [gradient._replace(tensor=slope * gradient.tensor)]
    tensors, axis = aligned([slope, gradient], op.outputs[0].shape.rank)
    return [Batched(tensors[0] * tensors[1], axis)]


@batches("Select")
def select_rows(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A choice by a condition of the shape of both."""
    if op.inputs[0].shape != op.inputs[1].shape:
        raise NoRuleError("the condition chooses rows")
    where: Callable[..., tf.Tensor] = tf.where
    tensors, axis = aligned(values, op.outputs[0].shape.rank)
    return [Batched(where(*tensors), axis)]
