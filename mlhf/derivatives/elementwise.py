"""The first four derivatives of functions of one number, for Taylor series through them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

# f', f'', ... at x, with y = f(x); None for zero.
Slopes: TypeAlias = list[Any]
Function: TypeAlias = Callable[[tf.Operation, tf.Tensor, tf.Tensor], Slopes]


def _tanh(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, x
    square = tf.square(y)
    first = 1 - square
    return [first, -2 * y * first, (6 * square - 2) * first, (16 - 24 * square) * y * first]


def _sigmoid(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, x
    first, odd = y * (1 - y), 1 - 2 * y
    return [first, odd * first, (1 - 6 * first) * first, (1 - 12 * first) * odd * first]


def _softplus(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del y
    s = tf.sigmoid(x)
    return [s, *_sigmoid(op, x, s)[:3]]


def _sin(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op
    c = tf.cos(x)
    return [c, -y, -c, y]


def _cos(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op
    s = tf.sin(x)
    return [-s, -y, s, y]


def _sinh(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op
    c = tf.cosh(x)
    return [c, y, c, y]


def _cosh(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op
    s = tf.sinh(x)
    return [s, y, s, y]


def _exp(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, x
    return [y, y, y, y]


def _expm1(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, x
    return [y + 1] * 4


def _log_from(reciprocal: tf.Tensor) -> Slopes:
    square = tf.square(reciprocal)
    return [reciprocal, -square, 2 * square * reciprocal, -6 * tf.square(square)]


def _log(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, y
    return _log_from(1 / x)


def _log1p(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, y
    return _log_from(1 / (1 + x))


def _erf(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, y
    square = tf.square(x)
    first = (2 / math.sqrt(math.pi)) * tf.exp(-square)
    return [first, -2 * x * first, (4 * square - 2) * first, (12 - 8 * square) * x * first]


def _erfc(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    return [-slope for slope in _erf(op, x, y)]


def _atan(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, y
    first, square = 1 / (1 + tf.square(x)), tf.square(x)
    second = tf.square(first)
    third = second * first
    return [
        first,
        -2 * x * second,
        (6 * square - 2) * third,
        24 * x * (1 - square) * tf.square(second),
    ]


def _square(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, y
    return [2 * x, 2.0, None, None]


def reciprocal(op: tf.Operation | None, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    """Returns the derivatives of 1/x."""
    del op, x
    square = tf.square(y)
    return [-square, 2 * square * y, -6 * tf.square(square), 24 * tf.square(square) * y]


def _sqrt(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op
    first = 0.5 / y
    second = -0.5 * first / x
    third = -1.5 * second / x
    return [first, second, third, -2.5 * third / x]


def _rsqrt(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op
    slopes, slope = [], y
    for k in range(4):
        slope = -(0.5 + k) * slope / x
        slopes.append(slope)
    return slopes


def _elu(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op
    below = tf.where(x > 0, tf.zeros_like(x), y + 1)
    return [tf.where(x > 0, tf.ones_like(x), y + 1), below, below, below]


def _relu(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, y
    return [tf.cast(x > 0, x.dtype), None, None, None]


def _relu6(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, y
    return [tf.cast((x > 0) & (x < 6), x.dtype), None, None, None]


def _leaky_relu(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del y
    alpha = op.get_attr("alpha") * tf.ones_like(x)
    return [tf.where(x > 0, tf.ones_like(x), alpha), None, None, None]


def _abs(op: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> Slopes:
    del op, y
    return [tf.sign(x), None, None, None]


def power(exponent: float, x: tf.Tensor) -> Slopes:
    """Returns the derivatives of x ** exponent."""
    slopes: Slopes = []
    factor = 1.0
    for k in range(4):
        factor *= exponent - k
        # Not a power of a negative exponent times zero, which is not finite at zero.
        slopes.append(None if factor == 0 else factor * tf.pow(x, exponent - k - 1))
    return slopes


FUNCTIONS: dict[str, Function] = {
    "Abs": _abs,
    "Atan": _atan,
    "Cos": _cos,
    "Cosh": _cosh,
    "Elu": _elu,
    "Erf": _erf,
    "Erfc": _erfc,
    "Exp": _exp,
    "Expm1": _expm1,
    "Inv": reciprocal,
    "LeakyRelu": _leaky_relu,
    "Log": _log,
    "Log1p": _log1p,
    "Reciprocal": reciprocal,
    "Relu": _relu,
    "Relu6": _relu6,
    "Rsqrt": _rsqrt,
    "Sigmoid": _sigmoid,
    "Sin": _sin,
    "Sinh": _sinh,
    "Softplus": _softplus,
    "Sqrt": _sqrt,
    "Square": _square,
    "Tanh": _tanh,
}

# Piecewise linear: their second derivatives are zero almost everywhere.
KINKED = frozenset(
    ("Abs", "LeakyRelu", "Max", "MaxPool", "Maximum", "Min", "Minimum", "Relu", "Relu6")
)
