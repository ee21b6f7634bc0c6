"""Rules of one tensor, element by element, and of the kernels of their gradients."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

# Away from the kinks at 0 and 6, and from half integers.
X = np.array([[-2.3, -0.7, 0.4, 1.9], [0.3, 6.6, 5.2, -0.2]])

CASES = {
    "kinks": (
        lambda x: {
            "relu": tf.nn.relu(x),
            "relu6": tf.nn.relu6(x),
            "leaky_relu": tf.nn.leaky_relu(x, 0.3),
            "elu": tf.nn.elu(x),
            "selu": tf.nn.selu(x),
            "abs": tf.abs(x),
            "relu_grad": tf.raw_ops.ReluGrad(gradients=x**2, features=x),
            "relu6_grad": tf.raw_ops.Relu6Grad(gradients=x**2, features=x),
            "leaky_relu_grad": tf.raw_ops.LeakyReluGrad(gradients=x**2, features=x, alpha=0.1),
        },
        X,
    ),
    "smooth": (
        lambda x: {
            "softplus": tf.nn.softplus(x),
            "sigmoid": tf.sigmoid(x),
            "tanh": tf.tanh(x),
            "exp": tf.exp(x),
            "expm1": tf.math.expm1(x),
            "square": tf.square(x),
            "reciprocal": tf.math.reciprocal(x),
            "inv": tf.raw_ops.Inv(x=x),
            "sin": tf.sin(x),
            "cos": tf.cos(x),
            "erf": tf.math.erf(x),
            "erfc": tf.math.erfc(x),
            "sinh": tf.sinh(x),
            "cosh": tf.cosh(x),
            "asinh": tf.asinh(x),
            "atan": tf.atan(x),
            "softsign": tf.nn.softsign(x),
            "acosh": tf.acosh(1.5 + x**2),
            "tan": tf.tan(x / 7),
            "asin": tf.asin(x / 7),
            "acos": tf.acos(x / 7),
            "atanh": tf.atanh(x / 7),
            "erfinv": tf.math.erfinv(x / 7),
            "ndtri": tf.math.ndtri(0.5 + x / 14),
            "silu": tf.nn.silu(x),
            "gelu": tf.nn.gelu(x),
            "gelu_tanh": tf.nn.gelu(x, approximate=True),
            "checked": tf.debugging.check_numerics(x, "x"),
            "default": tf.raw_ops.PlaceholderWithDefault(input=x, shape=[2, 4]),
        },
        X,
    ),
    "positive": (
        lambda x: {
            "log": tf.math.log(x),
            "log1p": tf.math.log1p(x),
            "sqrt": tf.sqrt(x),
            "rsqrt": tf.math.rsqrt(x),
            "lgamma": tf.math.lgamma(x),
            "digamma": tf.math.digamma(x),
        },
        np.abs(X),
    ),
    "gradients": (
        lambda x: {
            "elu": tf.raw_ops.EluGrad(gradients=x**2, outputs=x),
            "selu": tf.raw_ops.SeluGrad(gradients=x**2, outputs=x),
            "softplus": tf.raw_ops.SoftplusGrad(gradients=x**2, features=x),
            "softsign": tf.raw_ops.SoftsignGrad(gradients=x**2, features=x),
            "sigmoid": tf.raw_ops.SigmoidGrad(y=x, dy=x**2),
            "tanh": tf.raw_ops.TanhGrad(y=x, dy=x**2),
            "sqrt": tf.raw_ops.SqrtGrad(y=x, dy=x**2),
            "rsqrt": tf.raw_ops.RsqrtGrad(y=x, dy=x**2),
            "reciprocal": tf.raw_ops.ReciprocalGrad(y=x, dy=x**2),
            "inv": tf.raw_ops.InvGrad(y=x, dy=x**2),
            "upstream_alone": tf.raw_ops.TanhGrad(y=tf.constant(X), dy=x**2),
        },
        X,
    ),
    "constant": (
        lambda x: [
            x + tf.stop_gradient(x) * 0 + tf.sign(x) + tf.floor(x) + tf.math.ceil(x),
            x * tf.round(x) + tf.math.rint(x),
            x + tf.random.stateless_poisson([2, 4], [1, 2], tf.abs(x), tf.float64),
            x + tf.raw_ops.ZerosLike(x=x) + tf.raw_ops.OnesLike(x=x),
        ],
        X,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    custom_op.check_rule(*CASES[case])


def test_stop_gradient_stops():
    _, tangent = custom_op.jvp(
        lambda x: x * tf.stop_gradient(x), tf.constant(3.0), tf.constant(1.0)
    )
    assert tangent == 3.0


@pytest.mark.parametrize("function", [tf.nn.relu, tf.abs, tf.nn.relu6, tf.nn.elu])
def test_at_the_kink_as_tensorflow(function):
    x = tf.constant([0.0, 6.0, -0.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    _, tangent = custom_op.jvp(function, x, tf.ones_like(x))
    np.testing.assert_array_equal(tangent, tape.gradient(y, x))


def test_third_derivative():
    def derivative(f):
        return lambda x: custom_op.jvp(f, x, tf.ones_like(x))[1]

    x = tf.constant([-0.4, 1.1], tf.float64)
    third = tf.function(derivative(derivative(derivative(tf.tanh))), autograph=False)(x)
    y = np.tanh(x)
    np.testing.assert_allclose(third, (6 * y**2 - 2) * (1 - y**2), rtol=1e-13)
