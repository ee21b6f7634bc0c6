"""Everything that this package uses of TensorFlow's private interface, in one place.

All of it was seen on TensorFlow 2.16 and 2.21. If a later version lacks something,
`tests/custom_op/test_tensorflow_internals.py` fails and says what depends on it and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import execute
from tensorflow.python.framework import op_def_registry, ops
from tensorflow.python.ops import control_flow_util, control_flow_util_v2

# The attribute with the name of the gradient that `tf.custom_gradient` registered.
CUSTOM_GRADIENT = "_gradient_op_type"

# `tf.function(experimental_attributes=...)` of a function that the graph optimizer leaves whole.
NOT_INLINED = {"_noinline": True}


def is_eager(value: Any) -> bool:
    """Whether something is a tensor with a value, not a tensor of a graph."""
    return isinstance(value, tf.__internal__.EagerTensor)


def is_compiled(graph: Any = None) -> bool:
    """Whether XLA will compile a graph (by default the current one), or a graph around it."""
    graph = tf.compat.v1.get_default_graph() if graph is None else graph
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def is_operation(op_type: str) -> bool:
    """Whether a type is that of an operation, not the name of a TensorFlow 1 function."""
    return op_def_registry.get(op_type) is not None


def gradient_function(op: tf.Operation) -> Callable[..., Any] | None:
    """Returns the registered gradient of an operation; None if TensorFlow takes it for zero.

    Raises:
      LookupError: If no gradient is registered.
    """
    return ops.get_gradient_function(op)


def registered_gradient(name: str) -> Callable[..., Any] | None:
    """Returns the gradient registered under a name, or None."""
    entry = ops.gradient_registry._registry.get(name)
    return None if entry is None else entry["type"]


def replace_gradient(name: str, gradient: Callable[..., Any]) -> None:
    """Registers a gradient under a name, replacing any earlier one."""
    registered = ops.gradient_registry._registry
    if name in registered:
        registered[name]["type"] = gradient
    else:
        tf.RegisterGradient(name)(gradient)


def forget_gradient(name: str) -> None:
    """Removes a gradient from the registry, if it is there."""
    ops.gradient_registry._registry.pop(name, None)


def custom_gradient_of(op: tf.Operation) -> str | None:
    """Returns the name of the gradient that replaces an operation's own, or None."""
    override = op.node_def.attr.get(CUSTOM_GRADIENT)
    return None if override is None else override.s.decode()


def is_zeros(tensor: tf.Tensor) -> bool:
    """Whether a tensor is marked as zeros that stand for a gradient that nothing has."""
    return bool(getattr(tensor, "_is_zeros_tensor", False))


def name_of_handle(handle: tf.Tensor) -> str | None:
    """Returns the name of a variable of which an eager tensor is the handle, or None."""
    return getattr(handle, "_name", None)


def graphs_of_functions(graph: Any) -> Iterator[Any]:
    """Yields the graphs of the functions that a graph knows, whether it calls them or not."""
    for function in getattr(graph, "_functions", {}).values():
        inner = getattr(function, "graph", None)
        if inner is not None:
            yield inner


def function_graph(graph: Any, name: str) -> Any:
    """Returns the graph of a function that a graph knows by name, or None."""
    function = graph._get_function(name) if name else None
    return getattr(function, "graph", None)


def imported_graph(op: tf.Operation, shapes: Sequence[tf.TensorShape], name: str) -> Any:
    """Returns the graph of a function that an operation calls, built from its definition."""
    return control_flow_util_v2.get_func_graph(op, shapes, name)


def attached_graph(op: tf.Operation, name: str) -> Any:
    """Returns a graph that tracing attached to a loop or a choice, or None.

    Args:
      op: The operation.
      name: `"cond"` or `"body"` of a loop, `"true"` or `"false"` of an `if`, `"branch_0"`,
        `"branch_1"`, ... of a `case`.

    Returns:
      The graph; None if the operation was built from a definition.
    """
    numbered = name.startswith("branch_")
    attribute = f"_branch_graph_{name[7:]}" if numbered else f"_{name}_graph"
    return getattr(op, attribute, None)


def counts_iterations(op: tf.Operation) -> bool:
    """Whether a loop's first two variables are a counter and its bound, as of `tf.while_loop`."""
    return "_num_original_outputs" in op.node_def.attr


def is_recorded() -> bool:
    """Whether a gradient tape is watching."""
    return bool(execute.must_record_gradient())


def show_to_tapes(op: tf.Operation, kind: str) -> None:
    """Shows an operation of a graph to the gradient tapes that are watching.

    Args:
      op: The operation.
      kind: The name under which its gradient is registered.
    """
    attributes: list[Any] = []
    for attribute in op.op_def.attr:
        attributes += [attribute.name, op.get_attr(attribute.name)]
    execute.record_gradient(kind, list(op.inputs), tuple(attributes), list(op.outputs))
