"""A function that reads the variable whose value it is given."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.graphs.captured_variables import variables_read

_random = np.random.default_rng(5)
VALUE = _random.normal(size=(4, 4))
V = tf.constant(_random.normal(size=(4, 4)))


def through_a_call(w, p):
    return tf.function(lambda: tf.function(lambda: p @ w)())()


def through_a_loop(w, p):
    return tf.while_loop(lambda i, _: i < 3, lambda i, z: (i + 1, 0.5 * z @ w), (0, p))[1]


def through_a_branch(w, p):
    return tf.cond(tf.reduce_sum(p) > 1e3, lambda: p, lambda: tf.sin(p) * w)


READS = {
    "instead": lambda w, p: tf.sin(w),
    "beside": lambda w, p: p * w,
    "rows": lambda w, p: p + tf.gather(w, [0, 0, 1, 1]),
    "a call in a call": through_a_call,
    "a loop": through_a_loop,
    "a branch": through_a_branch,
}
PRIMALS = {
    "the variable": lambda w: w,
    "its value": tf.convert_to_tensor,
    "read_value": lambda w: w.read_value(),
    "identity": tf.identity,
}


@pytest.mark.parametrize("how", READS)
def test_the_variable_beside_its_value_is_refused(how):
    w, other = tf.Variable(VALUE, name="kernel"), tf.Variable(VALUE, name="other")

    def product(primal, read):
        return custom_op.jvp(lambda p: READS[how](read, p), primal(read), V)[1]

    for primal in PRIMALS.values():
        for run in (product, tf.function(product, autograph=False)):
            with pytest.raises(ValueError, match="reads the variable 'kernel' itself"):
                run(primal, w)
    # Another variable is a constant, of the same value too; so is what is read outside.
    constant = tf.convert_to_tensor(w)
    expected = custom_op.jvp(lambda p: READS[how](constant, p), constant, V)[1]
    got = custom_op.jvp(lambda p: READS[how](other, p), w, V)[1]
    np.testing.assert_allclose(got, expected)


def test_a_constant_may_be_meant():
    w = tf.Variable(VALUE)

    def distance(p):
        # A choice and a stopped value are no part of a derivative.
        sign = tf.where(w > 0, tf.ones_like(p), -tf.ones_like(p))
        return tf.square(p - tf.stop_gradient(w)) * sign

    value, tangent = custom_op.jvp(distance, w, V)
    np.testing.assert_array_equal([value, tangent], np.zeros((2, 4, 4)))


def test_a_model_that_is_called_beside_its_parameters():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="top")])
    images = tf.constant(VALUE, tf.float32)

    def network(parameters):
        return tf.tanh(images @ parameters["kernel"]) + 0.1 * model(images)

    def embedded(table):
        return tf.nn.embedding_lookup(weights.value, [1, 2]) * table[:2]

    kernel = model.trainable_variables[0]
    for value in (kernel, tf.convert_to_tensor(kernel)):
        with pytest.raises(ValueError, match="'top/kernel'|'kernel'"):
            custom_op.gauss_newton(
                network, {"kernel": value}, "softmax_cross_entropy", tf.zeros([4], tf.int32)
            )
    weights = keras.Variable(VALUE)
    for operator in (custom_op.linearize, custom_op.jacobian):
        with pytest.raises(ValueError, match="itself, whose value it is given"):
            operator(embedded, weights)


def test_what_a_traced_function_reads():
    a, b, c = (tf.Variable(VALUE, name=name) for name in "abc")

    def trace(x):
        before = through_a_loop(a, x) + tf.stop_gradient(b)
        assert [read.name for read in variables_read([before])] == ["a"]
        first = len(before.graph.get_operations())
        after = before * c
        (read,) = variables_read([after], before.graph.get_operations()[first:])
        assert read.handle is c.handle
        return after

    tf.function(trace, autograph=False).get_concrete_function(V)


def test_a_scalar_of_equal_value_is_not_the_variable():
    # TensorFlow caches scalar constants, so that both share their memory.
    rate, scale = tf.constant(2.0), tf.Variable(2.0)
    assert float(custom_op.jvp(lambda s: s * scale, rate, tf.constant(1.0))[1]) == 2.0
