"""Rules for functions of one tensor, element by element, and for the softmax family.

Where TensorFlow has the product of a slope and an incoming gradient as one kernel (`ReluGrad`,
`SigmoidGrad`, ...), the tangent takes that kernel: the slope is symmetric, so the same product
serves both directions, and nothing but the output is kept.
"""

from __future__ import annotations

import math

import tensorflow as tf

from custom_op.registry import register_r_forward, replay


@register_r_forward("Relu")
def relu(op):
    """R(max(x, 0)) = [x > 0] R(x)."""
    return lambda t: tf.raw_ops.ReluGrad(gradients=t, features=op.outputs[0])


@register_r_forward("Relu6")
def relu6(op):
    """R(min(max(x, 0), 6)) = [0 < x < 6] R(x)."""
    return lambda t: tf.raw_ops.Relu6Grad(gradients=t, features=op.outputs[0])


@register_r_forward("LeakyRelu")
def leaky_relu(op):
    """R(y) = R(x) where x > 0, α R(x) elsewhere."""
    alpha = op.get_attr("alpha")
    return lambda t: tf.raw_ops.LeakyReluGrad(gradients=t, features=op.inputs[0], alpha=alpha)


@register_r_forward("Elu")
def elu(op):
    """R(y) = R(x) where x > 0, (y + 1) R(x) elsewhere."""
    return lambda t: tf.raw_ops.EluGrad(gradients=t, outputs=op.outputs[0])


@register_r_forward("Selu")
def selu(op):
    """R(y) = λ R(x) where x > 0, (y + λα) R(x) elsewhere."""
    return lambda t: tf.raw_ops.SeluGrad(gradients=t, outputs=op.outputs[0])


@register_r_forward("Softplus")
def softplus(op):
    """R(log(1 + eˣ)) = σ(x) R(x)."""
    return lambda t: tf.raw_ops.SoftplusGrad(gradients=t, features=op.inputs[0])


@register_r_forward("Sigmoid")
def sigmoid(op):
    """R(y) = y (1 - y) R(x)."""
    return lambda t: tf.raw_ops.SigmoidGrad(y=op.outputs[0], dy=t)


@register_r_forward("Tanh")
def tanh(op):
    """R(y) = (1 - y²) R(x)."""
    return lambda t: tf.raw_ops.TanhGrad(y=op.outputs[0], dy=t)


@register_r_forward("Exp")
def exp(op):
    """R(y) = y R(x)."""
    return lambda t: t * op.outputs[0]


@register_r_forward("Expm1")
def expm1(op):
    """R(y) = (y + 1) R(x)."""
    return lambda t: t * (op.outputs[0] + 1)


@register_r_forward("Log")
def log(op):
    """R(log x) = R(x) / x."""
    return lambda t: t / op.inputs[0]


@register_r_forward("Log1p")
def log1p(op):
    """R(log(1 + x)) = R(x) / (1 + x)."""
    return lambda t: t / (1 + op.inputs[0])


@register_r_forward("Sqrt")
def sqrt(op):
    """R(y) = R(x) / 2y."""
    return lambda t: t * 0.5 / op.outputs[0]


@register_r_forward("Rsqrt")
def rsqrt(op):
    """R(x^-½) = -½ x^-½ R(x) / x."""
    slope = -0.5 * op.outputs[0] / op.inputs[0]
    return lambda t: t * slope


@register_r_forward("Square")
def square(op):
    """R(x²) = 2x R(x)."""
    return lambda t: 2 * op.inputs[0] * t


@register_r_forward("Reciprocal", "Inv")
def reciprocal(op):
    """R(y) = -y² R(x)."""
    return lambda t: -t * tf.square(op.outputs[0])


@register_r_forward("Abs")
def absolute(op):
    """R(|x|) = sign(x) R(x), and zero at zero."""
    return lambda t: t * tf.sign(op.inputs[0])


@register_r_forward("Sin")
def sin(op):
    """R(sin x) = cos(x) R(x)."""
    return lambda t: t * tf.cos(op.inputs[0])


@register_r_forward("Cos")
def cos(op):
    """R(cos x) = -sin(x) R(x)."""
    return lambda t: -t * tf.sin(op.inputs[0])


@register_r_forward("Erf")
def erf(op):
    """R(erf x) = 2/√π exp(-x²) R(x)."""
    slope = (2 / math.sqrt(math.pi)) * tf.exp(-tf.square(op.inputs[0]))
    return lambda t: t * slope


@register_r_forward("Softmax")
def softmax(op):
    """R(s) = s ⊙ R(x) - s <s, R(x)>, row by row."""

    def tangent_map(t):
        weighted = op.outputs[0] * t
        return weighted - op.outputs[0] * tf.reduce_sum(weighted, -1, keepdims=True)

    return tangent_map


@register_r_forward("LogSoftmax")
def log_softmax(op):
    """R(log s) = R(x) - <s, R(x)>, row by row."""
    probabilities = tf.exp(op.outputs[0])
    return lambda t: t - tf.reduce_sum(probabilities * t, -1, keepdims=True)


@register_r_forward("ReluGrad", "Relu6Grad", "LeakyReluGrad")
def piecewise_linear_gradient(op):
    """R(slope g) = slope R(g): the slope's own derivative is zero almost everywhere."""
    return lambda t, _: None if t is None else replay(op, [t, op.inputs[1]])


@register_r_forward(
    "StopGradient", "ZerosLike", "OnesLike", "Sign", "Floor", "Ceil", "Round", "Rint"
)
def constant(op):
    """R(y) = 0, by intention or almost everywhere."""
    del op
    return lambda *tangents: None
