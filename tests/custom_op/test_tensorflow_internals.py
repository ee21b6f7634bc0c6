"""What this package uses of TensorFlow's private interface is there and does what it did.

A failure here after an update of TensorFlow names what has to be found again; until then the upper
bound of tensorflow in pyproject.toml belongs below the new version. Behind each use stand:

- `is_compiled`: rules that have other kernels under XLA, labels' checks, loops in reverse;
- `gradient_function`, `registered_gradient`, `replace_gradient`, `forget_gradient`: rules that fall
  back on TensorFlow's gradients, mended gradients, custom gradients that end with their graph;
- `function_graph`, `imported_graph`, `attached_graph`: calls, loops and branches;
- `is_recorded`, `show_to_tapes`: tapes that see copied operations;
- `is_operation`: networks with loops of TensorFlow 1;
- `counts_iterations`: loops in reverse under XLA, which need the bound of their iterations;
- `graphs_of_functions`: second derivatives that hypergradients refuse inside called functions;
- `is_zeros`: the mended gradient of the softmax cross entropy costs more without it, no more;
- `name_of_handle`: the names of variables in messages;
- `NOT_INLINED`: weights that all hypergradient methods train to the last bit alike.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from custom_op import tensorflow_internals as internals


def _traced(function, *arguments):
    return tf.function(function, autograph=False).get_concrete_function(*arguments)


def _operation(concrete, *types):
    return next(op for op in concrete.graph.get_operations() if op.type in types)


def test_eager_tensors_are_told_from_those_of_graphs():
    assert internals.is_eager(tf.constant(1.0))
    assert not internals.is_eager(np.float32(1))
    seen = []
    _traced(lambda x: seen.append(internals.is_eager(x)) or x, tf.constant(1.0))
    assert seen == [False]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_graph_knows_whether_it_is_compiled(compiled):
    seen = []

    def function(x):
        seen.append(internals.is_compiled())
        return tf.cond(x > 0, lambda: seen.append(internals.is_compiled()) or x, lambda: -x)

    tf.function(function, autograph=False, jit_compile=compiled)(tf.constant(1.0))
    assert set(seen) == {compiled}


def test_operations_are_told_from_functions():
    assert internals.is_operation("Tanh")
    assert not internals.is_operation("no_such_operation")


def test_gradients_are_found_replaced_and_forgotten():
    tanh = _operation(_traced(tf.tanh, tf.constant(1.0)), "Tanh")
    assert callable(internals.gradient_function(tanh))
    shape = _operation(_traced(lambda x: tf.raw_ops.Shape(input=x), tf.ones([2])), "Shape")
    assert internals.gradient_function(shape) is None
    assert internals.registered_gradient("NoSuchGradient") is None
    for value in (1, 2):
        internals.replace_gradient("GradientOfATest", lambda *_, value=value: value)
        found = internals.registered_gradient("GradientOfATest")
        assert found is not None and found(None) == value
    internals.forget_gradient("GradientOfATest")
    assert internals.registered_gradient("GradientOfATest") is None


def test_a_custom_gradient_has_a_name():
    @tf.custom_gradient
    def doubled(x):
        return 2 * x, lambda u: 2 * u

    concrete = _traced(doubled, tf.constant(1.0))
    name = internals.custom_gradient_of(_operation(concrete, "IdentityN"))
    assert name is not None and callable(internals.registered_gradient(name))
    assert internals.custom_gradient_of(_operation(_traced(tf.tanh, tf.ones([])), "Tanh")) is None


def test_graphs_of_calls_loops_and_branches():
    inner = tf.function(lambda x: tf.tanh(x), autograph=False)
    call = _operation(_traced(lambda x: inner(x), tf.constant(1.0)), "PartitionedCall")
    name = call.get_attr("f").name
    assert internals.function_graph(call.graph, "no_such_function") is None
    found = [
        internals.function_graph(call.graph, name),
        internals.imported_graph(call, [x.shape for x in call.inputs], name),
    ]
    for graph in found:
        assert "Tanh" in {op.type for op in graph.get_operations()}

    loop = _operation(
        _traced(lambda x: tf.while_loop(lambda h: h < 9, lambda h: [h * h], [x]), tf.constant(2.0)),
        "While",
        "StatelessWhile",
    )
    assert internals.attached_graph(loop, "cond") is not None
    assert internals.attached_graph(loop, "body") is not None
    branch = _operation(
        _traced(lambda x: tf.cond(x > 0, lambda: x, lambda: -x), tf.constant(2.0)),
        "If",
        "StatelessIf",
    )
    assert internals.attached_graph(branch, "true") is not None
    assert internals.attached_graph(branch, "false") is not None
    case = _operation(
        _traced(lambda i: tf.switch_case(i, [lambda: 1, lambda: 2, lambda: 3]), tf.constant(1)),
        "Case",
        "StatelessCase",
    )
    assert all(internals.attached_graph(case, f"branch_{i}") is not None for i in range(3))
    assert internals.attached_graph(case, "true") is None


def test_what_is_shown_to_a_tape_is_differentiated():
    def slope(x, shown):
        graph = tf.compat.v1.get_default_graph()
        with tf.GradientTape() as tape:
            tape.watch(x)
            assert internals.is_recorded()
            op = graph.create_op("Tanh", [x], [x.dtype])
            if shown:
                internals.show_to_tapes(op, "Tanh")
        assert not internals.is_recorded()
        return tape.gradient(op.outputs[0], x, unconnected_gradients="zero")

    x = tf.constant(0.5, tf.float64)
    shown = tf.function(lambda x: slope(x, True), autograph=False)(x)
    np.testing.assert_allclose(shown, 1 - np.tanh(0.5) ** 2, rtol=1e-14)
    assert float(tf.function(lambda x: slope(x, False), autograph=False)(x)) == 0


def test_a_loop_tells_whether_it_counts():
    def loop(x):
        return tf.while_loop(lambda h: h < 9, lambda h: [h * h], [x], maximum_iterations=4)

    op = _operation(_traced(loop, tf.constant(2.0)), "While", "StatelessWhile")
    assert internals.counts_iterations(op)
    assert tf.get_static_value(op.inputs[1]) == 4
    assert not internals.counts_iterations(_operation(_traced(tf.tanh, tf.ones([])), "Tanh"))


def test_graphs_of_functions_are_found():
    inner = tf.function(lambda x: tf.tanh(x), autograph=False)
    graph = _traced(lambda x: inner(x), tf.constant(1.0)).graph
    (found,) = internals.graphs_of_functions(graph)
    assert "Tanh" in {op.type for op in found.get_operations()}


def test_zeros_for_a_gradient_that_nothing_has_are_marked():
    from tensorflow.python.ops import array_ops

    assert internals.is_zeros(array_ops.zeros([2]))
    assert not internals.is_zeros(tf.ones([2]))


def test_a_handle_has_its_variables_name():
    assert internals.name_of_handle(tf.Variable(1.0, name="weight").handle).startswith("weight")
    assert internals.name_of_handle(tf.constant(1.0)) is None


def test_a_function_that_is_not_inlined_says_so():
    inner = tf.function(
        lambda x: tf.tanh(x), autograph=False, experimental_attributes=internals.NOT_INLINED
    )
    definition = inner.get_concrete_function(tf.constant(1.0)).function_def
    assert all(definition.attr[name].b for name in internals.NOT_INLINED)
