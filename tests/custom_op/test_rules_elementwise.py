"""Rules of one tensor, element by element, and of the softmax family."""

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
        },
        X,
    ),
    "positive": (
        lambda x: {
            "log": tf.math.log(x),
            "log1p": tf.math.log1p(x),
            "sqrt": tf.sqrt(x),
            "rsqrt": tf.math.rsqrt(x),
        },
        np.abs(X),
    ),
    "softmax": (lambda x: {"s": tf.nn.softmax(x), "log": tf.nn.log_softmax(x)}, X),
    "constant": (
        lambda x: [
            x + tf.stop_gradient(x) * 0 + tf.sign(x) + tf.floor(x) + tf.math.ceil(x),
            x * tf.round(x) + tf.math.rint(x),
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


def test_softmax_of_extreme_logits():
    logits = tf.constant([[0.0, 1000.0], [1000.0, 0.0]])
    t = tf.constant([[1.0, 2.0], [3.0, 5.0]])
    _, tangent = custom_op.jvp(tf.nn.log_softmax, logits, t)
    np.testing.assert_array_equal(tangent, [[-1.0, 0.0], [0.0, 2.0]])
    _, tangent = custom_op.jvp(tf.nn.softmax, logits, t)
    np.testing.assert_array_equal(tangent, np.zeros((2, 2)))


def test_third_derivative():
    def derivative(f):
        return lambda x: custom_op.jvp(f, x, tf.ones_like(x))[1]

    x = tf.constant([-0.4, 1.1], tf.float64)
    third = tf.function(derivative(derivative(derivative(tf.tanh))), autograph=False)(x)
    y = np.tanh(x)
    np.testing.assert_allclose(third, (6 * y**2 - 2) * (1 - y**2), rtol=1e-13)
