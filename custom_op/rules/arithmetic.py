"""Rules for sums, differences, quotients and choices, with NumPy's broadcasting."""

from __future__ import annotations

import tensorflow as tf

from custom_op.registry import register_r_forward, replay


def _to_shape_of(output: tf.Tensor, tangent: tf.Tensor) -> tf.Tensor:
    """Broadcasts the tangent of one operand to the output's shape, where they differ."""
    if output.shape.is_fully_defined() and tangent.shape == output.shape:
        return tangent
    return tf.broadcast_to(tangent, tf.shape(output))


def _sum(output: tf.Tensor, *terms: tf.Tensor | None) -> tf.Tensor | None:
    """Adds the terms that are there."""
    live = [term for term in terms if term is not None]
    if not live:
        return None
    total = live[0]
    for term in live[1:]:
        total = total + term
    return _to_shape_of(output, total)


@register_r_forward("Add", "AddV2", "AddN")
def addition(op):
    """R(x + y) = R(x) + R(y)."""
    return lambda *tangents: _sum(op.outputs[0], *tangents)


@register_r_forward("Sub")
def subtraction(op):
    """R(x - y) = R(x) - R(y)."""
    return lambda a, b: _sum(op.outputs[0], a, None if b is None else -b)


@register_r_forward("Mul")
def multiplication(op):
    """R(xy) = R(x) y + x R(y)."""
    x, y = op.inputs
    return lambda a, b: _sum(
        op.outputs[0], None if a is None else a * y, None if b is None else x * b
    )


@register_r_forward("RealDiv", "Div")
def division(op):
    """R(x / y) = (R(x) - (x/y) R(y)) / y."""
    divisor, quotient = op.inputs[1], op.outputs[0]
    return lambda a, b: _sum(
        quotient,
        None if a is None else a / divisor,
        None if b is None else -quotient * (b / divisor),
    )


@register_r_forward("SquaredDifference")
def squared_difference(op):
    """R((x - y)²) = 2 (x - y) (R(x) - R(y))."""

    def tangent_map(a, b):
        slope = 2 * (op.inputs[0] - op.inputs[1])
        return _sum(
            op.outputs[0], None if a is None else slope * a, None if b is None else -slope * b
        )

    return tangent_map


def _selected(op, first_wins):
    def tangent_map(a, b):
        zero = tf.zeros([], op.outputs[0].dtype)
        chosen = tf.where(first_wins, zero if a is None else a, zero if b is None else b)
        return _to_shape_of(op.outputs[0], chosen)

    return tangent_map


@register_r_forward("Maximum")
def maximum(op):
    """R(max(x, y)) is the tangent of the larger one; a tie gives all to the first operand."""
    return _selected(op, op.inputs[0] >= op.inputs[1])


@register_r_forward("Minimum")
def minimum(op):
    """R(min(x, y)) is the tangent of the smaller one; a tie gives all to the first operand."""
    return _selected(op, op.inputs[0] <= op.inputs[1])


@register_r_forward("SelectV2")
def select(op):
    """R(where(c, x, y)) = where(c, R(x), R(y))."""
    condition = op.inputs[0]
    chosen = _selected(op, condition)
    return lambda _, a, b: chosen(a, b)


@register_r_forward("Select")
def select_rows(op):
    """As `select`, with the older operation's choice of whole rows."""
    condition, output = op.inputs[0], op.outputs[0]

    def tangent_map(_, a, b):
        zeros = tf.zeros_like(output)
        return replay(op, [condition, zeros if a is None else a, zeros if b is None else b])[0]

    return tangent_map


@register_r_forward("BiasAdd")
def bias_add(op):
    """R(x + b) = R(x) + R(b), with b along the channels."""
    data_format = op.get_attr("data_format").decode()

    def tangent_map(a, b):
        if b is None:
            return a
        base = tf.zeros_like(op.outputs[0]) if a is None else a
        return tf.nn.bias_add(base, b, data_format=data_format)

    return tangent_map
