"""The operators of a small automatic-differentiation library, one by one, to second order.

Each by itself and under an exponential, whose slope makes the cotangent that arrives differ from
entry to entry. Against central finite differences in float64 (`custom_op.check_rule`, which names
the operator that fails); a family is traced as one function.
"""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(14)


def _normal(*shape):
    return 0.5 * _random.normal(size=shape)


def _density(x, mean, deviation):
    scaled = (x - mean) / deviation
    return tf.exp(-(scaled**2) / 2) / (deviation * np.sqrt(2 * np.pi))


POINT = {
    "a": _normal(3, 4),
    "b": _normal(3, 4),
    "c": _normal(4, 2),
    "row": _normal(4),
    "positive": 0.3 + np.abs(_normal(3, 4)),
    "cube": _normal(2, 3, 4),
}
LABELS = tf.constant(_random.dirichlet(np.ones(4), size=3))

MATRIX = {
    "add": lambda p: p["a"] + p["b"],
    "add a row": lambda p: p["a"] + p["row"],
    "subtract": lambda p: p["a"] - p["b"],
    "multiply": lambda p: p["a"] * p["b"],
    "multiply by itself": lambda p: p["a"] * p["a"],
    "multiply by a column": lambda p: p["a"] * p["b"][:, :1],
    "negate": lambda p: -p["a"],
    "reciprocal": lambda p: 1 / p["positive"],
    "divide": lambda p: p["a"] / p["positive"],
    "power of a number": lambda p: p["positive"] ** 2.5,
    "power of a tensor": lambda p: p["positive"] ** p["a"],
    "logarithm": lambda p: tf.math.log(p["positive"]),
    "identity": lambda p: tf.identity(p["a"]),
    "exponential": lambda p: tf.exp(p["a"]),
    "sigmoid": lambda p: tf.sigmoid(p["a"]),
    "tanh": lambda p: tf.tanh(p["a"]),
    "relu": lambda p: tf.nn.relu(p["a"]) ** 2,
    "softmax": lambda p: tf.nn.softmax(p["a"]),
    "softmax cross entropy": lambda p: tf.nn.softmax_cross_entropy_with_logits(LABELS, p["a"]),
    "sigmoid cross entropy": lambda p: tf.nn.sigmoid_cross_entropy_with_logits(LABELS, p["a"]),
    "squared difference": lambda p: tf.math.squared_difference(p["a"], p["b"]),
    "Frobenius norm": lambda p: tf.norm(p["a"]),
    "normal density": lambda p: _density(p["a"], p["row"], p["positive"]),
    "matrix product": lambda p: p["a"] @ p["c"],
    "transpose": lambda p: tf.transpose(p["cube"], [2, 0, 1]),
    "concatenate": lambda p: tf.concat([p["a"], p["row"][None], p["b"]], 0),
    "reshape": lambda p: tf.reshape(p["a"], [2, -1]),
    "slice": lambda p: p["cube"][1, ::2, 1:3],
    "pad": lambda p: tf.pad(p["a"], [[1, 0], [2, 1]]),
    "sum and keep the axes": lambda p: tf.reduce_sum(p["cube"], [0, 2], keepdims=True),
}

# A number is a tensor too, and meets matrices.
SCALAR = {
    "product and power": lambda s: s["x"] * s["y"] + s["x"] ** 3,
    "quotient": lambda s: s["x"] / (1 + s["y"] ** 2),
    "with a matrix": lambda s: s["x"] * POINT["a"] - s["y"],
    "z = xy + exp(x + 3)": lambda s: s["x"] * s["y"] + tf.exp(s["x"] + 3),
}

EINSUMS = {
    "ij->": ["a"],
    "ij->j": ["a"],
    "ij->i": ["a"],
    "ij->ji": ["a"],
    "ij,ij->": ["a", "b"],
    "ij,ij->ij": ["a", "b"],
    "ij,jk->ik": ["a", "c"],
    "ij,jk->ki": ["a", "c"],
    "ij,j->i": ["a", "row"],
    "ij,kj->ik": ["a", "b"],
    "i,j->ij": ["row", "row"],
    "bij,jk->bik": ["cube", "c"],
    "...j,jk->...k": ["cube", "c"],
    "bij->": ["cube"],
    "bij,bkj->bik": ["cube", "cube"],
    "ij,jk,ij->k": ["a", "c", "b"],
}
EINSUM = {
    equation: lambda p, equation=equation, names=names: tf.einsum(
        equation, *[p[name] for name in names]
    )
    for equation, names in EINSUMS.items()
}

INPUTS, ONE_HOT = tf.constant(_normal(5, 3)), tf.constant(np.eye(2)[[0, 1, 1, 0, 1]])
WEIGHTS = {"w": _normal(3, 4), "b": _normal(4), "v": _normal(4, 2), "c": _normal(2)}


def _layers(activation):
    return lambda p: activation(INPUTS @ p["w"] + p["b"]) @ p["v"] + p["c"]


GRAPHS = {
    "network and loss": lambda p: tf.nn.softmax_cross_entropy_with_logits(
        ONE_HOT, _layers(tf.tanh)(p)
    ),
    "two sigmoid layers": lambda p: tf.sigmoid(_layers(tf.sigmoid)(p)),
    "broadcast up and sum down": lambda p: (
        tf.reduce_sum(p["b"][:, None] * p["v"] + p["c"], 0, keepdims=True) * p["w"][:, :2]
    ),
    "one weight used three times": lambda p: p["v"] * tf.sigmoid(p["v"]) @ tf.transpose(p["v"]),
}

CONVOLUTION = {
    "images": _normal(1, 5, 4, 2),
    "kernel": _normal(3, 3, 2, 2),
    "line": _normal(2, 6, 2),
    "short": _normal(3, 2, 2),
}
CONVOLUTIONS = {
    "same": lambda p: tf.nn.conv2d(p["images"], p["kernel"], 1, "SAME"),
    "valid with strides": lambda p: tf.nn.conv2d(p["images"], p["kernel"], 2, "VALID"),
    # TensorFlow's gradient of a convolution with `dilations` has no kernel on CPU.
    "dilated": lambda p: tf.nn.atrous_conv2d(p["images"], p["kernel"], 2, "SAME"),
    "transposed": lambda p: tf.nn.conv2d_transpose(
        p["images"], p["kernel"], [1, 10, 8, 2], 2, "SAME"
    ),
    "depthwise": lambda p: tf.nn.depthwise_conv2d(p["images"], p["kernel"], [1] * 4, "SAME"),
    "of a line": lambda p: tf.nn.conv1d(p["line"], p["short"], 1, "SAME"),
}

FAMILIES = {
    "matrix": (MATRIX, POINT),
    "scalar": (SCALAR, {"x": np.array(0.7), "y": np.array(-1.2)}),
    "einsum": (EINSUM, POINT),
    "graphs": (GRAPHS, WEIGHTS),
    "convolutions": (CONVOLUTIONS, CONVOLUTION),
}


def _check(family, outer):
    operators, point = FAMILIES[family]
    custom_op.check_rule(
        lambda p: {name: outer(operator(p)) for name, operator in operators.items()}, point
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_under_an_exponential(family):
    _check(family, tf.exp)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_bare(family):
    _check(family, tf.identity)


def test_gradients_of_unused_inputs_are_zero():
    linear = custom_op.linearize(
        lambda p: MATRIX["add"](p), tf.nest.map_structure(tf.constant, POINT), unconnected="zero"
    )
    pulled = linear.vjp(tf.ones([3, 4], tf.float64))
    np.testing.assert_array_equal(pulled["a"], np.ones([3, 4]))
    assert not np.any(pulled["cube"])


def test_large_and_small_arguments():
    """Where a softmax that is not shifted overflows, and a guarded logarithm is wrong."""
    large = tf.constant([[1000.0, 999.0, -1000.0]], tf.float64)
    linear = custom_op.linearize(tf.nn.softmax, large)
    p = 1 / (1 + np.exp(-1.0))
    expected = p * (1 - p) * np.array([[1.0, -1.0, 0.0]])
    np.testing.assert_allclose(linear.jvp(tf.constant([[1.0, 0.0, 0.0]], tf.float64)), expected)
    tiny = tf.constant(1e-15, tf.float64)
    np.testing.assert_allclose(custom_op.jvp(tf.math.log, tiny, tiny)[1], 1.0, rtol=1e-12)
    np.testing.assert_allclose(custom_op.jvp(lambda x: 1 / x, -tiny, tiny)[1], -1e15, rtol=1e-12)
