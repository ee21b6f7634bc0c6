"""Rules for functions of one tensor, element by element.

If TensorFlow computes the product of a slope and an incoming gradient in one kernel (`ReluGrad`,
`SigmoidGrad`, ...), the tangent uses that kernel: the slope is diagonal, so the same product serves
both directions, and only the output is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from custom_op.registry import LinearMap, register_r_forward, replay
from custom_op.rules import moments


@register_r_forward("Relu")
def relu(op: tf.Operation) -> LinearMap:
    """R(max(x, 0)) = [x > 0] R(x)."""
    return lambda t: tf.raw_ops.ReluGrad(gradients=t, features=op.outputs[0])


@register_r_forward("Relu6")
def relu6(op: tf.Operation) -> LinearMap:
    """R(min(max(x, 0), 6)) = [0 < x < 6] R(x)."""
    return lambda t: tf.raw_ops.Relu6Grad(gradients=t, features=op.outputs[0])


@register_r_forward("LeakyRelu")
def leaky_relu(op: tf.Operation) -> LinearMap:
    """R(y) = R(x) where x > 0, α R(x) elsewhere."""
    alpha = op.get_attr("alpha")
    return lambda t: tf.raw_ops.LeakyReluGrad(gradients=t, features=op.inputs[0], alpha=alpha)


@register_r_forward("Elu")
def elu(op: tf.Operation) -> LinearMap:
    """R(y) = R(x) where x > 0, (y + 1) R(x) elsewhere."""
    return lambda t: tf.raw_ops.EluGrad(gradients=t, outputs=op.outputs[0])


@register_r_forward("Selu")
def selu(op: tf.Operation) -> LinearMap:
    """R(y) = λ R(x) where x > 0, (y + λα) R(x) elsewhere."""
    return lambda t: tf.raw_ops.SeluGrad(gradients=t, outputs=op.outputs[0])


@register_r_forward("Softplus")
def softplus(op: tf.Operation) -> LinearMap:
    """R(log(1 + eˣ)) = σ(x) R(x)."""
    return lambda t: tf.raw_ops.SoftplusGrad(gradients=t, features=op.inputs[0])


@register_r_forward("Sigmoid")
def sigmoid(op: tf.Operation) -> LinearMap:
    """R(y) = y (1 - y) R(x)."""
    return lambda t: tf.raw_ops.SigmoidGrad(y=op.outputs[0], dy=t)


@register_r_forward("Tanh")
def tanh(op: tf.Operation) -> LinearMap:
    """R(y) = (1 - y²) R(x)."""
    return lambda t: tf.raw_ops.TanhGrad(y=op.outputs[0], dy=t)


@register_r_forward("Exp")
def exp(op: tf.Operation) -> LinearMap:
    """R(y) = y R(x)."""
    return lambda t: t * op.outputs[0]


@register_r_forward("Expm1")
def expm1(op: tf.Operation) -> LinearMap:
    """R(y) = (y + 1) R(x)."""
    return lambda t: t * (op.outputs[0] + 1)


@register_r_forward("Log")
def log(op: tf.Operation) -> LinearMap:
    """R(log x) = R(x) / x."""
    return lambda t: t / op.inputs[0]


@register_r_forward("Log1p")
def log1p(op: tf.Operation) -> LinearMap:
    """R(log(1 + x)) = R(x) / (1 + x)."""
    return lambda t: t / (1 + op.inputs[0])


@register_r_forward("Sqrt")
def sqrt(op: tf.Operation) -> LinearMap:
    """R(y) = R(x) / 2y."""
    return lambda t: t * 0.5 / op.outputs[0]


@register_r_forward("Rsqrt")
def rsqrt(op: tf.Operation) -> LinearMap:
    """R(x^-½) = -½ x^-½ R(x) / x."""
    slope = -0.5 * op.outputs[0] / op.inputs[0]
    return lambda t: t * slope


@register_r_forward("Square")
def square(op: tf.Operation) -> LinearMap:
    """R(x²) = 2x R(x)."""
    return lambda t: 2 * op.inputs[0] * t


@register_r_forward("Reciprocal", "Inv")
def reciprocal(op: tf.Operation) -> LinearMap:
    """R(y) = -y² R(x)."""
    return lambda t: -t * tf.square(op.outputs[0])


@register_r_forward("Abs")
def absolute(op: tf.Operation) -> LinearMap:
    """R(|x|) = sign(x) R(x), and zero at zero."""
    return lambda t: t * tf.sign(op.inputs[0])


@register_r_forward("Sin")
def sin(op: tf.Operation) -> LinearMap:
    """R(sin x) = cos(x) R(x)."""
    return lambda t: t * tf.cos(op.inputs[0])


@register_r_forward("Cos")
def cos(op: tf.Operation) -> LinearMap:
    """R(cos x) = -sin(x) R(x)."""
    return lambda t: -t * tf.sin(op.inputs[0])


@register_r_forward("Erf")
def erf(op: tf.Operation) -> LinearMap:
    """R(erf x) = 2/√π exp(-x²) R(x)."""
    slope = (2 / math.sqrt(math.pi)) * tf.exp(-tf.square(op.inputs[0]))
    return lambda t: t * slope


_SLOPES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "Acos": lambda x, y: -tf.math.rsqrt(1 - tf.square(x)),
    "Acosh": lambda x, y: tf.math.rsqrt(tf.square(x) - 1),
    "Asin": lambda x, y: tf.math.rsqrt(1 - tf.square(x)),
    "Asinh": lambda x, y: tf.math.rsqrt(1 + tf.square(x)),
    "Atan": lambda x, y: 1 / (1 + tf.square(x)),
    "Atanh": lambda x, y: 1 / (1 - tf.square(x)),
    "Cosh": lambda x, y: tf.sinh(x),
    "Digamma": lambda x, y: tf.math.polygamma(tf.ones([], x.dtype), x),
    "Erfc": lambda x, y: -(2 / math.sqrt(math.pi)) * tf.exp(-tf.square(x)),
    "Erfinv": lambda x, y: (math.sqrt(math.pi) / 2) * tf.exp(tf.square(y)),
    "Lgamma": lambda x, y: tf.math.digamma(x),
    "Ndtri": lambda x, y: math.sqrt(2 * math.pi) * tf.exp(tf.square(y) / 2),
    "Sinh": lambda x, y: tf.cosh(x),
    "Softsign": lambda x, y: 1 / tf.square(1 + tf.abs(x)),
    "Tan": lambda x, y: 1 + tf.square(y),
}


@register_r_forward(*_SLOPES)
def by_slope(op: tf.Operation) -> LinearMap:
    """R(y) = f'(x) R(x), with the slope f'(x) kept."""
    slope = _SLOPES[op.type](op.inputs[0], op.outputs[0])
    return lambda t: slope * t


# Kernels of TensorFlow's gradients, g f'(y): the positions of g and y, and f''(y) g.
_GRADIENTS: dict[str, tuple[int, int, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]] = {
    "EluGrad": (0, 1, lambda g, y: tf.where(y < 0, g, tf.zeros_like(g))),
    "InvGrad": (1, 0, lambda g, y: -2 * g * y),
    "ReciprocalGrad": (1, 0, lambda g, y: -2 * g * y),
    "RsqrtGrad": (1, 0, lambda g, y: -1.5 * g * tf.square(y)),
    "SeluGrad": (0, 1, lambda g, y: tf.where(y < 0, g, tf.zeros_like(g))),
    "SigmoidGrad": (1, 0, lambda g, y: g * (1 - 2 * y)),
    "SoftplusGrad": (0, 1, lambda g, y: g * tf.sigmoid(y) * tf.sigmoid(-y)),
    "SoftsignGrad": (0, 1, lambda g, y: -2 * g * tf.sign(y) / (1 + tf.abs(y)) ** 3),
    "SqrtGrad": (1, 0, lambda g, y: -0.5 * g / tf.square(y)),
    "TanhGrad": (1, 0, lambda g, y: -2 * g * y),
}


@register_r_forward(*_GRADIENTS)
def gradient_of_activation(op: tf.Operation) -> LinearMap:
    """R(g f'(y)) = f'(y) R(g) + g f''(y) R(y)."""
    first, second, curve = _GRADIENTS[op.type]
    g, y = op.inputs[first], op.inputs[second]

    def scaled(tangent: tf.Tensor) -> tf.Tensor:
        if op.type == "SoftsignGrad":  # Its kernel has no gradient.
            return tangent / tf.square(1 + tf.abs(y))
        inputs = [y, y]
        inputs[first] = tangent
        return replay(op, inputs)[0]

    def tangent_map(*tangents: tf.Tensor | None) -> tf.Tensor:
        terms = []
        if tangents[first] is not None:
            terms.append(scaled(tangents[first]))
        if tangents[second] is not None:
            terms.append(curve(g, y) * tangents[second])
        return sum(terms[1:], terms[0])

    return tangent_map


@register_r_forward("ReluGrad", "Relu6Grad", "LeakyReluGrad")
def piecewise_linear_gradient(op: tf.Operation) -> LinearMap:
    """R(slope g) = slope R(g): the slope's own derivative is zero almost everywhere."""
    return lambda t, _: None if t is None else replay(op, [t, op.inputs[1]])


@register_r_forward(
    "ZerosLike", "OnesLike", "Sign", "Floor", "Ceil", "Round", "Rint", "StatelessRandomPoisson"
)
def constant(op: tf.Operation) -> LinearMap:
    """R(y) = 0, intentionally or almost everywhere."""
    del op
    return lambda *tangents: None


@register_r_forward("StopGradient")
def stop_gradient(op: tf.Operation) -> LinearMap:
    """R(y) = 0 intentionally, except for the mean inside `tf.nn.moments`."""
    passes = moments.is_differentiated_mean(op)
    return lambda t: t if passes else None
