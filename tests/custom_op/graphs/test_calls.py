"""Networks that call a `tf.function`."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

X = tf.constant(np.random.default_rng(7).normal(size=(3, 4)))
VARIABLE = tf.Variable(2.0 - X)


@tf.function
def product(x):
    return tf.tanh(x) @ tf.transpose(x)


@tf.function
def nested(x, scale=2.0):
    return {"silu": tf.nn.silu(product(x)) * scale, "constant": tf.ones([2], x.dtype)}


@tf.function
def reading(x):
    return tf.sin(x) * VARIABLE


@tf.function(jit_compile=True)
def compiled(x):
    return tf.exp(x) * x


@tf.function
def dropped(x):
    return tf.nn.experimental.stateless_dropout(x, 0.5, seed=[1, 2]) * x


CASES = {
    "given_directly": product,
    "inside": lambda x: tf.sin(product(x)) ** 2,
    "nested": nested,
    "reading": lambda x: reading(2.0 * x),
    "compiled": lambda x: compiled(x) + x,
    "stateless_dropout": lambda x: dropped(x) + 1.0,
    "one_argument_constant": lambda x: nested(X * 2, tf.reduce_sum(x)),
}


@pytest.mark.parametrize("case", CASES)
def test_tangents_pass_a_call(case):
    custom_op.check_rule(CASES[case], X)


@pytest.mark.parametrize("case", ["inside", "nested", "reading"])
def test_eager_and_in_a_loop(case):
    def gram(linear, v):
        return linear.vjp(linear.jvp(v))

    @tf.function(autograph=False)
    def looped(x):
        linear = custom_op.linearize(CASES[case], x)
        return tf.while_loop(lambda i, _: i < 2, lambda i, v: (i + 1, gram(linear, v)), (0, x))[1]

    eager = custom_op.linearize(CASES[case], X)
    expected = gram(eager, gram(eager, X))
    np.testing.assert_allclose(looped(X), expected, rtol=1e-10)


def test_a_call_that_does_not_depend_on_the_primals_stays_a_call():
    @tf.function(autograph=False)
    def run(x):
        linear = custom_op.linearize(lambda w: w * product(X)[0, 0], x)
        graph = tf.compat.v1.get_default_graph()
        assert [op.type for op in graph.get_operations()].count("PartitionedCall") == 1
        return linear.jvp(x)

    np.testing.assert_allclose(run(X), X * product(X)[0, 0])


def test_random_numbers_and_assignments_inside_are_refused():
    state = tf.Variable(1.0)

    @tf.function
    def random(x):
        return tf.nn.dropout(x, 0.5) * x

    @tf.function
    def assigning(x):
        state.assign(2.0)
        return x * state

    for function, reason in ((random, "RandomUniform"), (assigning, "reads and assigns")):
        for wrap in (lambda f: f, tf.function):
            wrapped = wrap(lambda x, function=function: function(x) * 1.0)
            with pytest.raises(custom_op.NotDifferentiableError, match=reason):
                custom_op.linearize(wrapped, tf.constant([1.0]))
