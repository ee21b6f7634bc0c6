"""The graphs that calls, loops and branches of a traced graph run, and dependencies in a graph."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import tensorflow as tf

from custom_op import tensorflow_internals as internals

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")
# Operations that TensorFlow counts as having a state, for what they raise must not be left out, but
# that do the same every time.
CHECKS = ("Assert", "CheckNumerics")


def ancestors(wanted: Sequence[tf.Tensor], known: Container[Any] = ()) -> list[tf.Operation]:
    """Returns the operations that tensors depend on, each after those that it reads.

    Args:
      wanted: Tensors of one graph.
      known: References of tensors beyond which the search ends.

    Returns:
      Operations in an order in which they can run. It need not be the order of their creation:
      the gradient of a loop gives the loop inputs that are newer than itself.
    """
    finished: dict[tf.Operation, None] = {}
    entered = set()
    stack = [tensor.op for tensor in reversed(wanted) if tensor.ref() not in known]
    while stack:
        op = stack[-1]
        if op in finished:
            stack.pop()
        elif op in entered:
            finished[stack.pop()] = None
        else:
            entered.add(op)
            reads = [value.op for value in op.inputs if value.ref() not in known]
            stack.extend(read for read in reversed(reads) if read not in entered)
    return list(finished)


def called_graph(op: tf.Operation) -> Any:
    """Returns the graph of the function that an operation calls."""
    name = op.get_attr("f").name
    graph = op.graph
    while graph is not None:
        body = internals.function_graph(graph, name)
        if body is not None:
            return body
        graph = getattr(graph, "outer_graph", None)
    return internals.imported_graph(op, [value.shape for value in op.inputs], name)


def loop_graph(op: tf.Operation, name: str) -> Any:
    """Returns the graph of a loop's `"cond"` or `"body"`."""
    graph = internals.attached_graph(op, name)
    if graph is not None:
        return graph
    shapes = [tf.TensorShape(shape) for shape in op.get_attr("output_shapes")]
    return internals.imported_graph(op, shapes, op.get_attr(name).name)


def branch_graphs(op: tf.Operation) -> list[Any]:
    """Returns the graphs that an `if` or a `case` operation chooses from."""
    if op.type.endswith("If"):
        named = [("true", op.get_attr("then_branch")), ("false", op.get_attr("else_branch"))]
    else:
        named = [(f"branch_{i}", f) for i, f in enumerate(op.get_attr("branches"))]
    shapes = [value.shape for value in list(op.inputs)[1:]]
    return [
        internals.attached_graph(op, name) or internals.imported_graph(op, shapes, f.name)
        for name, f in named
    ]


def inside(tensor: tf.Tensor, graph: Any) -> tf.Tensor:
    """Returns the tensor of a graph that captures a tensor of a graph around it.

    A custom gradient captures tensors of an outer graph directly, past the graph of the operation
    whose gradient it is.

    Args:
      tensor: A tensor of the graph or of one around it.
      graph: The graph.

    Returns:
      The capturing tensor, or the tensor itself if it has not been captured.
    """
    for outer, inner in graph.captures:
        if outer is tensor:
            return inner
    return tensor


def graphs_around(graph: Any) -> list[Any]:
    """Returns the graphs that a graph is nested in, innermost first."""
    around = []
    while (graph := getattr(graph, "outer_graph", None)) is not None:
        around.append(graph)
    return around


def source(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor that a chain of identities begins with."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor
