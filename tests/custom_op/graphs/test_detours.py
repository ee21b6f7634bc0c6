"""Values that no gradient follows: written into a variable or table, or made a text or bits."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from mlhf import hypergrad as hg

D = tf.float64
X = tf.constant([0.3, -0.2, 0.5], D)


def as_text(z):
    return tf.strings.to_number(tf.strings.as_string(z, precision=17), D) * z


def as_bits(z):
    return tf.bitcast(tf.bitcast(z, tf.int64), D) * z


def serialized(z):
    return tf.ensure_shape(tf.io.parse_tensor(tf.io.serialize_tensor(z), D), [3]) * z


def written(variable, assign=lambda variable, z: variable.assign(2 * z)):
    def function(z):
        assign(variable, z)
        return variable * z

    return function


def table(z):
    made = tf.lookup.experimental.MutableHashTable(tf.int64, D, tf.zeros([3], D))
    with tf.control_dependencies([made.insert([1], [2 * z])]):
        return tf.ensure_shape(made.lookup([tf.constant(1, tf.int64)])[0], [3]) * z


def in_a_loop(variable):
    def body(i, z):
        before = variable.read_value()
        with tf.control_dependencies([before]):
            variable.assign(z)
        return i + 1, 2 * z + before

    return lambda z: tf.while_loop(lambda i, _: i < 3, body, (0, z))[1]


def in_a_call(variable, z):
    tf.function(lambda a: variable.assign(2 * a), autograph=False)(z)


def in_a_branch(variable, z):
    tf.cond(z[0] > 0, lambda: variable.assign(2 * z), lambda: tf.identity(z))


@pytest.mark.parametrize("graph", [False, True])
def test_a_detour_is_refused_by_name(graph):
    variable = tf.Variable(tf.zeros([3], D), trainable=False)
    functions = {
        "AsString": [as_text],
        "Bitcast": [as_bits],
        "SerializeTensor": [serialized],
        "LookupTableInsertV2": [table],
        "AssignVariableOp": [
            written(variable),
            written(variable, in_a_call),
            written(variable, in_a_branch),
            in_a_loop(variable),
        ],
        "AssignAddVariableOp": [written(variable, lambda v, z: v.assign_add(z))],
    }
    for op_type, several in functions.items():
        for function in several:
            product = lambda t, f=function: custom_op.jvp(f, X, t)[1]  # noqa: E731
            product = tf.function(product, autograph=False) if graph else product
            with pytest.raises(custom_op.NotDifferentiableError, match=op_type):
                product(tf.ones_like(X))


def test_what_has_no_say_in_the_derivative_is_no_detour():
    seen = tf.Variable(tf.ones([3], D), trainable=False)

    def read_before(z):
        factor = tf.identity(seen)
        seen.assign(0.9 * factor + 0.1 * z)
        return factor * z**2

    def told(z):
        tf.print(tf.strings.as_string(z), output_stream="file:///dev/null")
        return z**2

    def steps(z):
        text = tf.strings.as_string(tf.round(10 * z))
        length = tf.strings.length(tf.strings.as_string(z, precision=3))
        return z**2 + 0 * (tf.strings.to_number(text, D) + tf.cast(length, D))

    def stopped(z):
        return z**2 + 0 * as_text(tf.stop_gradient(z))

    for function in (read_before, told, steps, stopped):
        seen.assign(tf.ones([3], D))
        np.testing.assert_allclose(custom_op.jvp(function, X, tf.ones_like(X))[1], 2 * X)


def test_checkpoints_and_hypergradients_refuse_detours():
    with pytest.raises(custom_op.NotDifferentiableError, match="AsString"):
        with tf.GradientTape() as tape:
            tape.watch(X)
            value = custom_op.checkpoint(as_text)(X)
        tape.gradient(value, X)
    mean = tf.Variable(tf.zeros([3], D), trainable=False)
    scale = tf.constant(0.7, D)

    def plain(w, h, step):
        return tf.reduce_sum(w["w"] ** 2) + h["h"] * tf.reduce_sum(w["w"])

    def with_text(w, h, step):
        return plain(w, h, step) * tf.strings.to_number(tf.strings.as_string(h["h"]), D)

    def running(w, h, step):
        before = mean.read_value()
        with tf.control_dependencies([before]):
            mean.assign(0.9 * before + 0.1 * w["w"])
        return plain(w, h, step) + tf.reduce_sum(w["w"] * before)

    def writes(w, h, step):
        mean.assign(w["w"])
        return plain(w, h, step)

    def cubed(w, h, step):
        inside = tf.py_function(lambda a: a**3, [w["w"] * h["h"]], D)
        return plain(w, h, step) + tf.reduce_sum(tf.ensure_shape(inside, [3]))

    def last(w, h):
        return tf.reduce_sum(w["w"] ** 2)

    def reads(w, h):
        return tf.reduce_sum(w["w"] * mean)

    for train, outer, op_type in (
        (with_text, last, "AsString"),
        (running, last, "AssignVariableOp"),
        (writes, reads, "AssignVariableOp"),
        (cubed, last, "EagerPyFunc"),
    ):
        problem = hg.Problem(train, outer, dynamics=hg.GradientDescent(0.1), steps=3)
        for method in (hg.reverse, hg.forward, hg.implicit):
            with pytest.raises(custom_op.NotDifferentiableError, match=op_type):
                method(problem, {"w": X}, {"h": scale})
