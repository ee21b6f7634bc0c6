"""Rules for sums, products, quotients, powers and selections, with NumPy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from custom_op.registry import LinearMap, register_r_forward, replay
from custom_op.rules import moments


def _to_shape_of(output: tf.Tensor, tangent: tf.Tensor) -> tf.Tensor:
    """Broadcasts the tangent of an operand to the output's shape, if they differ."""
    if output.shape.is_fully_defined() and tangent.shape == output.shape:
        return tangent
    return tf.broadcast_to(tangent, tf.shape(output))


def _sum(output: tf.Tensor, *terms: tf.Tensor | None) -> tf.Tensor | None:
    """Adds the terms that are not None."""
    live = [term for term in terms if term is not None]
    if not live:
        return None
    if output.dtype == tf.variant:
        return tf.add_n(live)  # Lists of tensors, entry by entry.
    total = live[0]
    for term in live[1:]:
        total = _plus(total, term)
    return _to_shape_of(output, total)


def _plus(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Returns a + b; adds one number per channel as a bias, whose transpose is a faster sum."""
    if a.shape.is_fully_defined() and b.shape.is_fully_defined():
        full, channels = (a, b) if a.shape.num_elements() > b.shape.num_elements() else (b, a)
        last = full.shape[-1:]
        if 2 <= full.shape.rank <= 5 and channels.shape.rank <= full.shape.rank:
            if channels.shape[-1:] == last and channels.shape.num_elements() == last[0]:
                if full.dtype.is_floating and full.shape != channels.shape:
                    return tf.nn.bias_add(full, tf.reshape(channels, last))
    return a + b


@register_r_forward("Add", "AddV2", "AddN")
def addition(op: tf.Operation) -> LinearMap:
    """R(x + y) = R(x) + R(y)."""
    return lambda *tangents: _sum(op.outputs[0], *tangents)


@register_r_forward("Sub")
def subtraction(op: tf.Operation) -> LinearMap:
    """R(x - y) = R(x) - R(y)."""
    return lambda a, b: _sum(op.outputs[0], a, None if b is None else -b)


@register_r_forward("Mul")
def multiplication(op: tf.Operation) -> LinearMap:
    """R(xy) = R(x) y + x R(y)."""
    x, y = op.inputs
    return lambda a, b: _sum(
        op.outputs[0], None if a is None else a * y, None if b is None else x * b
    )


@register_r_forward("RealDiv", "Div")
def division(op: tf.Operation) -> LinearMap:
    """R(x / y) = (R(x) - (x/y) R(y)) / y."""
    divisor, quotient = op.inputs[1], op.outputs[0]
    return lambda a, b: _sum(
        quotient,
        None if a is None else a / divisor,
        None if b is None else -quotient * (b / divisor),
    )


def _product(slope: Callable[[], tf.Tensor], tangent: tf.Tensor | None) -> tf.Tensor | None:
    """Multiplies a tangent, if there is one; only then the slope is computed."""
    return None if tangent is None else slope() * tangent


@register_r_forward("DivNoNan")
def division_or_zero(op: tf.Operation) -> LinearMap:
    """As a quotient, and zero where the divisor is zero."""
    divisor, quotient = op.inputs[1], op.outputs[0]
    return lambda a, b: _sum(
        quotient,
        None if a is None else tf.math.divide_no_nan(a, divisor),
        None if b is None else tf.math.divide_no_nan(-quotient * b, divisor),
    )


@register_r_forward("MulNoNan")
def multiplication_or_zero(op: tf.Operation) -> LinearMap:
    """As a product, and zero where the second factor is zero, whatever the first is."""
    x, y = op.inputs
    return lambda a, b: _sum(
        op.outputs[0],
        None if a is None else tf.math.multiply_no_nan(a, y),
        None if b is None else tf.math.multiply_no_nan(x, b),
    )


@register_r_forward("Xdivy")
def division_of_zero(op: tf.Operation) -> LinearMap:
    """As a quotient, and zero where dividend and divisor are zero."""
    x, y = op.inputs
    return lambda a, b: _sum(
        op.outputs[0],
        _product(lambda: tf.math.xdivy(one_unless(x, tf.equal(y, 0)), y), a),
        _product(lambda: -tf.math.xdivy(op.outputs[0], y), b),
    )


@register_r_forward("Xlogy")
def times_logarithm(op: tf.Operation) -> LinearMap:
    """R(x log y) = log(y) R(x) + (x/y) R(y), and zero where x is zero and log(y) infinite."""
    x, y = op.inputs
    return lambda a, b: _sum(
        op.outputs[0],
        _product(lambda: tf.math.xlogy(one_unless(x, up_to(y, 0)), y), a),
        _product(lambda: tf.math.xdivy(x, y), b),
    )


@register_r_forward("Xlog1py")
def times_logarithm_of_one_plus(op: tf.Operation) -> LinearMap:
    """R(x log(1 + y)) = log(1 + y) R(x) + x/(1 + y) R(y), zero where x is and log(1 + y) not."""
    x, y = op.inputs
    return lambda a, b: _sum(
        op.outputs[0],
        _product(lambda: tf.math.xlog1py(one_unless(x, up_to(y, -1)), y), a),
        _product(lambda: tf.math.xdivy(x, 1 + y), b),
    )


def up_to(y: tf.Tensor, bound: int) -> tf.Tensor:
    """Whether y equals a bound or is below it; complex numbers have no order."""
    return tf.equal(y, bound) if y.dtype.is_complex else y <= bound


def one_unless(x: tf.Tensor, undefined: tf.Tensor) -> tf.Tensor:
    """Returns 1, and 0 where x is zero and the factor of x is undefined.

    TensorFlow's gradients are zero wherever x is, even if the factor is an ordinary number.

    Args:
      x: The first factor.
      undefined: Where the other factor is undefined, as booleans.

    Returns:
      Ones and zeros of the dtype of x.
    """
    return tf.cast(tf.logical_not(tf.logical_and(tf.equal(x, 0), undefined)), x.dtype)


def _known_number(x: tf.Tensor) -> float | None:
    """Returns a scalar's value if the graph tells it; also that of y - 1, as in a gradient."""
    if tf.executing_eagerly() or x.shape.rank != 0:
        return None
    if x.op.type == "Sub":
        left, right = (_known_number(part) for part in x.op.inputs)
        return None if left is None or right is None else left - right
    value = tf.get_static_value(x)
    return None if value is None else value.item()


@register_r_forward("Pow")
def power(op: tf.Operation) -> LinearMap:
    """R(xʸ) = y xʸ⁻¹ R(x) + log(x) xʸ R(y); the second only where x is positive."""
    x, y = op.inputs
    zero, one = tf.zeros([], x.dtype), tf.ones([], x.dtype)
    exponent = _known_number(y)

    def slope_in_base() -> tf.Tensor:
        # Squares are common, and a power with x¹ or x⁰ can take longer than a matrix product.
        if exponent == 1:
            return y
        if exponent == 2:
            return y * x
        # 0⁰ is constant in its base; 0⁻¹ would give NaN.
        lowered = tf.where((x == zero) & (y == zero), one, y - 1)
        return y * tf.pow(x, lowered)

    def slope_in_exponent() -> tf.Tensor:
        positive = x != zero if x.dtype.is_complex else x > zero
        return tf.where(positive, tf.math.log(tf.where(positive, x, one)), zero) * op.outputs[0]

    return lambda a, b: _sum(
        op.outputs[0], _product(slope_in_base, a), _product(slope_in_exponent, b)
    )


@register_r_forward("Atan2")
def angle(op: tf.Operation) -> LinearMap:
    """R(atan2(y, x)) = (x R(y) - y R(x)) / (x² + y²)."""
    y, x = op.inputs
    squares = tf.square(x) + tf.square(y)
    return lambda a, b: _sum(
        op.outputs[0],
        _product(lambda: x / squares, a),
        _product(lambda: -y / squares, b),
    )


@register_r_forward("FloorMod", "Mod", "TruncateMod")
def remainder(op: tf.Operation) -> LinearMap:
    """R(x mod y) = R(x) - q R(y), with q the whole part of the quotient."""
    x, y = op.inputs
    return lambda a, b: _sum(
        op.outputs[0], a, _product(lambda: -tf.stop_gradient(tf.round((x - op.outputs[0]) / y)), b)
    )


@register_r_forward("FloorDiv", "TruncateDiv")
def whole_quotient(op: tf.Operation) -> LinearMap:
    """R(y) = 0 almost everywhere."""
    del op
    return lambda *tangents: None


@register_r_forward("NextAfter")
def neighbour(op: tf.Operation) -> LinearMap:
    """The next floating number moves with the first input."""
    return lambda a, _: _sum(op.outputs[0], a)


@register_r_forward("SquaredDifference")
def squared_difference(op: tf.Operation) -> LinearMap:
    """R((x - y)²) = 2 (x - y) (R(x) - R(y))."""
    x, y = op.inputs[0], moments.unstopped(op)

    def tangent_map(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor | None:
        slope = 2 * (x - y)
        return _sum(
            op.outputs[0], None if a is None else slope * a, None if b is None else -slope * b
        )

    return tangent_map


def _selected(op: tf.Operation, first_wins: tf.Tensor) -> LinearMap:
    def tangent_map(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor:
        zero = tf.zeros([], op.outputs[0].dtype)
        chosen = tf.where(first_wins, zero if a is None else a, zero if b is None else b)
        return _to_shape_of(op.outputs[0], chosen)

    return tangent_map


@register_r_forward("Maximum")
def maximum(op: tf.Operation) -> LinearMap:
    """R(max(x, y)) is the tangent of the larger one; a tie gives all to the first operand."""
    return _selected(op, op.inputs[0] >= op.inputs[1])


@register_r_forward("Minimum")
def minimum(op: tf.Operation) -> LinearMap:
    """R(min(x, y)) is the tangent of the smaller one; a tie gives all to the first operand."""
    return _selected(op, op.inputs[0] <= op.inputs[1])


@register_r_forward("SelectV2")
def select(op: tf.Operation) -> LinearMap:
    """R(where(c, x, y)) = where(c, R(x), R(y))."""
    condition = op.inputs[0]
    chosen = _selected(op, condition)
    return lambda _, a, b: chosen(a, b)


@register_r_forward("Select")
def select_rows(op: tf.Operation) -> LinearMap:
    """As `SelectV2`; the condition may choose whole rows."""
    condition, output = op.inputs[0], op.outputs[0]

    def tangent_map(_: None, a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor:
        zeros = tf.zeros_like(output)
        return replay(op, [condition, zeros if a is None else a, zeros if b is None else b])[0]

    return tangent_map


@register_r_forward("ClipByValue")
def clip(op: tf.Operation) -> LinearMap:
    """R(y) is the tangent of the bound where that holds, R(x) elsewhere."""
    values, low, high = op.inputs
    output = op.outputs[0]

    def tangent_map(
        inside: tf.Tensor | None, at_low: tf.Tensor | None, at_high: tf.Tensor | None
    ) -> tf.Tensor:
        zero = tf.zeros([], output.dtype)
        at_low, at_high, inside = (
            zero if tangent is None else tangent for tangent in (at_low, at_high, inside)
        )
        return _to_shape_of(
            output, tf.where(values < low, at_low, tf.where(values > high, at_high, inside))
        )

    return tangent_map


@register_r_forward("BiasAdd", "BiasAddV1")
def bias_add(op: tf.Operation) -> LinearMap:
    """R(x + b) = R(x) + R(b), with b along the channels."""
    data_format = op.get_attr("data_format").decode() if op.type == "BiasAdd" else "NHWC"

    def tangent_map(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor | None:
        if b is None:
            return a
        base = tf.zeros_like(op.outputs[0]) if a is None else a
        return tf.nn.bias_add(base, b, data_format=data_format)

    return tangent_map
