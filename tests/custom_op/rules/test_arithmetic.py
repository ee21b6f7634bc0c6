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
        "division_or_zero": tf.math.divide_no_nan(x, y),
        "multiplication_or_zero": tf.math.multiply_no_nan(x, y),
        "xdivy": tf.math.xdivy(x, y),
        "xlogy": tf.math.xlogy(x, y),
        "xlog1py": tf.math.xlog1py(x, y),
        "power": tf.pow(y, x),
        "power_of_negative": tf.pow(x, 3.0) + x**-2.0,
        "power_of_constant": 2.0**x,
        "angle": tf.atan2(x, y),
        "floor_mod": tf.math.floormod(x, y / 3),
        "mod": tf.raw_ops.Mod(x=x, y=y / 3),
        "truncate_mod": tf.raw_ops.TruncateMod(x=x, y=y / 3),
        "whole": x * tf.math.floordiv(x, y) + tf.raw_ops.TruncateDiv(x=x, y=y),
        "neighbour": tf.math.nextafter(x, tf.ones_like(x)) ** 2,
        "clip": tf.clip_by_value(x, -0.6, x[0, 0, 0] ** 2 + 0.3),
        "clip_kernel": tf.raw_ops.ClipByValue(
            t=x, clip_value_min=tf.constant(-0.6, x.dtype), clip_value_max=x[0, 0, 0] ** 2 + 0.3
        ),
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
        "bias_channels_first": tf.nn.bias_add(x[None], y[:, 0], data_format="NCHW"),
        "bias_old": tf.raw_ops.BiasAddV1(value=x, bias=y[0]),
        "bias_gradient": tf.raw_ops.BiasAddGrad(out_backprop=x * y),
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


def test_powers_at_zero():
    x, y = tf.constant([0.0, 0.0, 0.0, -2.0]), tf.constant([0.0, 1.0, 2.0, 2.0])
    linear = custom_op.linearize(lambda p: tf.pow(*p), (x, y))
    np.testing.assert_array_equal(linear.jvp((tf.ones(4), tf.zeros(4))), [0, 1, 0, -4])
    np.testing.assert_array_equal(linear.jvp((tf.zeros(4), tf.ones(4))), np.zeros(4))


def test_zero_beats_what_is_not_finite():
    x, y = tf.constant([0.0, 2.0]), tf.constant([0.0, 4.0])
    v = tf.constant([3.0, 5.0])
    tangents = custom_op.jvp(
        lambda p: (tf.math.divide_no_nan(*p), tf.math.xlogy(*p), tf.math.xdivy(*p)), (x, y), (v, v)
    )[1]
    expected = [[0, 5 / 4 - 2 * 5 / 16], [0, 5 * np.log(4) + 2 * 5 / 4], [0, 5 / 4 - 2 * 5 / 16]]
    np.testing.assert_allclose(tangents, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float64, tf.complex128])
def test_slopes_where_the_first_factor_is_zero(dtype):
    y = np.array([2.0, 3.0, 0.5])
    for function, slope in (
        (tf.math.xlogy, np.log(y)),
        (tf.math.xlog1py, np.log1p(y)),
        (tf.math.xdivy, 1 / y),
    ):

        def behind(x, function=function):
            return tf.math.real(function(2 * tf.cast(x, dtype), tf.cast(y, dtype)))

        tangent = custom_op.jvp(behind, tf.zeros(3, tf.float64), tf.ones(3, tf.float64))[1]
        np.testing.assert_allclose(tangent, 2 * slope, rtol=1e-14)


@pytest.mark.parametrize("exponent", [1, 2, 3, 2.5])
def test_powers_with_known_exponents(exponent):
    x, t = np.array([0.5, 1.5, 2.0]), np.array([1.0, -2.0, 3.0])

    def power_and_slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(x**exponent)
        return x**exponent, tape.gradient(y, x)

    jvp = tf.function(
        lambda x, t: custom_op.linearize(power_and_slope, x, unconnected="zero").jvp(t),
        autograph=False,
    )
    of_power, of_slope = jvp(tf.constant(x), tf.constant(t))
    np.testing.assert_allclose(of_power, exponent * x ** (exponent - 1) * t, rtol=1e-14)
    curvature = exponent * (exponent - 1) * x ** (exponent - 2.0)
    np.testing.assert_allclose(of_slope, curvature * t, rtol=1e-14)


def test_the_derivative_of_a_square_takes_no_power():
    @tf.function(autograph=False)
    def jvp(x):
        return custom_op.linearize(lambda x: x**2, x).jvp(x)

    operations = jvp.get_concrete_function(tf.TensorSpec([3])).graph.get_operations()
    assert [op.type for op in operations].count("Pow") == 1  # the square itself
