"""Gradients of traced operations that are freed with the graph they belong to.

At every call, TensorFlow registers the backward function of a `tf.custom_gradient` under a new
name, and with it, forever, the graph that it was traced in and everything the graph has captured.
That is harmless in a `tf.function` that is traced once; linearizations that are traced for every
batch would keep every batch. Here the registry holds a weak reference, and the graph the strong
one.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op import tensorflow_internals as internals

_HELD = "_custom_op_held_gradients"

_weak: dict[str, weakref.ref[Any]] = {}


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Does what `tf.custom_gradient` does, but frees the gradient with its graph.

    Args:
      function: A function from tensors to a tensor or several, and the function of their gradients.

    Returns:
      The differentiable function.
    """

    @functools.wraps(function)
    def dense(*arguments: tf.Tensor) -> Any:
        results, vjp = function(*arguments)
        # The gradient of a gather of the result is an IndexedSlices, whatever follows.
        return results, lambda *upstream: vjp(*map(tf.convert_to_tensor, upstream))

    differentiable = tf.custom_gradient(dense)

    @functools.wraps(function)
    def call(*arguments: tf.Tensor) -> Any:
        results = differentiable(*arguments)
        first = tf.nest.flatten(results)[0]
        if not tf.executing_eagerly():
            hold(first.graph, internals.custom_gradient_of(first.op) or "")
        return results

    return call


def hold(graph: tf.Graph, name: str) -> None:
    """Frees a registered gradient with a graph, or with the last of the graphs that share it.

    Args:
      graph: The graph of the operation that it was registered for.
      name: The gradient's name in the registry.
    """
    share(graph, name)
    gradient = internals.registered_gradient(name)
    if gradient is None or name in _weak:
        return
    reference = _weak[name] = weakref.ref(gradient)

    def call(op: tf.Operation, *upstream: Any) -> Any:
        gradient = reference()
        assert gradient is not None  # it outlives all graphs with such an operation
        return gradient(op, *upstream)

    internals.replace_gradient(name, call)
    weakref.finalize(gradient, _forget, name).atexit = False


def hold_all(graph: tf.Graph) -> None:
    """Frees the gradients that `tf.custom_gradient` registered for a graph with it.

    Args:
      graph: A graph that a user's function has just been traced into. Graphs of loops and branches
        are included; functions that it calls are not, as other code may call them again.
    """
    for op in graph.get_operations():
        # tf.custom_gradient registers for an operation of this type.
        if op.type == "IdentityN" and (name := internals.custom_gradient_of(op)) is not None:
            hold(graph, name)
        for inner in _graphs(op):
            hold_all(inner)


def share(graph: tf.Graph, name: str) -> None:
    """Keeps a registered gradient as long as a graph that holds a copy of its operation.

    Args:
      graph: The graph of the copy.
      name: The gradient's name in the registry.
    """
    gradient = _weak[name]() if name in _weak else internals.registered_gradient(name)
    if gradient is None:
        return
    # An attribute: a table of graphs would keep them alive through what their gradients read.
    held = getattr(graph, _HELD, None)
    if held is None:
        held = {}
        setattr(graph, _HELD, held)
    held[name] = gradient


def _forget(name: str) -> None:
    internals.forget_gradient(name)
    _weak.pop(name, None)


def _graphs(op: tf.Operation) -> list[tf.Graph]:
    """Returns the graphs that tracing attached to a loop or a choice."""
    if op.type in ("While", "StatelessWhile"):
        names = ["cond", "body"]
    elif op.type in ("If", "StatelessIf"):
        names = ["true", "false"]
    elif op.type in ("Case", "StatelessCase"):
        names = [f"branch_{i}" for i in range(len(op.get_attr("branches")))]
    else:
        return []
    graphs = [internals.attached_graph(op, name) for name in names]
    return [graph for graph in graphs if graph is not None]
