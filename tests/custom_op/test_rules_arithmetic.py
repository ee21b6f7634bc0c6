"""Rules of sums, products, quotients and choices, with broadcasting."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(0)
_PAIR = (_random.normal(size=(2, 1, 3)), 2 + _random.normal(size=(4, 1)))
_SAME = (_random.normal(size=(3, 2)), _random.normal(size=(3, 2)))
_CONDITION = np.array([[True, False], [False, True], [True, True]])


def _all(p):
    x, y = p
    return {
        "add": x + y,
        "add_old": tf.raw_ops.Add(x=x, y=y),
        "sub": x - y,
        "mul": x * y,
        "div": x / y,
        "div_old": tf.raw_ops.Div(x=x, y=y),
        "squared_difference": tf.math.squared_difference(x, y),
        "maximum": tf.maximum(x, y - 2),
        "minimum": tf.minimum(x, y - 2),
        "where": tf.where(_CONDITION[0, :1], x, y),
        "constant_left": 3.0 - y,
        "constant_right": x / tf.constant(_SAME[0][0, :1]),
        "one_side_small": x[0, 0, 0] * tf.ones([2, 2], x.dtype) + x[0, 0, 1],
    }


def _same_shapes(p):
    x, y = p
    return {
        "add_n": tf.add_n([x, y, x]),
        "select": tf.raw_ops.Select(condition=_CONDITION, x=x, y=y),
        "select_rows": tf.raw_ops.Select(condition=_CONDITION[:, 0], x=x**2, y=y),
        "select_one": tf.raw_ops.Select(condition=_CONDITION, x=x, y=tf.ones_like(y)),
        "bias": tf.nn.bias_add(x, y[0]),
        "bias_only": tf.nn.bias_add(tf.ones([4, 2], x.dtype), y[0]),
        "bias_first": tf.raw_ops.BiasAdd(value=x[None], bias=tf.constant(_SAME[0][0])),
    }


CASES = {"broadcasting": (_all, _PAIR), "same_shapes": (_same_shapes, _SAME)}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    custom_op.check_rule(*CASES[case])


@pytest.mark.parametrize("function", [tf.maximum, tf.minimum])
def test_ties_as_tensorflow(function):
    x = (tf.constant([1.0, 2.0]), tf.constant([1.0, 2.0]))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(*x)
    expected = tape.gradient(y, x)
    linear = custom_op.linearize(lambda p: function(*p), x)
    for got, right in zip(linear.vjp(tf.ones([2])), expected, strict=True):
        np.testing.assert_array_equal(got, right)


def test_broadcasting_with_an_unknown_size():
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 2])] * 2)
    def run(x, t):
        return custom_op.jvp(lambda x: tf.ones([3, 1, 2]) + x, x, t)[1]

    t = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(run(t, t), np.broadcast_to(t, (3, 2, 2)))
