"""Gradients of traced operations that end with the graph that they belong to.

TensorFlow registers what a `tf.custom_gradient` computes backward, and with it the graph that this
was traced in and all that the graph has captured, under a new name at every call and for ever. In a
`tf.function` that is traced once it does no harm; linearizations that are traced at every batch
would keep every batch. Here the registry gets a weak reference, and the graph the strong one.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op import tensorflow_internals as internals

_HELD = "_custom_op_held_gradients"

_weak: dict[str, weakref.ref] = {}


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what `tf.custom_gradient` does; in a graph its derivative ends with the graph.

    Args:
      function: From tensors to a tensor, or several, and the function of their gradients.
    """
    differentiable = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*arguments):
        results = differentiable(*arguments)
        first = tf.nest.flatten(results)[0]
        if not tf.executing_eagerly():
            hold(first.graph, internals.custom_gradient_of(first.op) or "")
        return results

    return call


def hold(graph: tf.Graph, name: str) -> None:
    """Makes a registered gradient end with a graph, or with the last of those that share it.

    Args:
      graph: The graph of the operation that it was registered for.
      name: Its name in the registry.
    """
    share(graph, name)
    gradient = internals.registered_gradient(name)
    if gradient is None or name in _weak:
        return
    reference = _weak[name] = weakref.ref(gradient)

    def call(op, *upstream):
        found = reference()
        assert found is not None  # it ends after the last graph with such an operation
        return found(op, *upstream)

    internals.replace_gradient(name, call)
    weakref.finalize(gradient, _forget, name).atexit = False


def hold_all(graph: tf.Graph) -> None:
    """Makes the gradients that `tf.custom_gradient` registered for a graph end with it.

    Args:
      graph: A graph that a user's function was traced into just now. Graphs of loops and branches
        are looked into; functions that it calls are others', which may call them again.
    """
    for op in graph.get_operations():
        # tf.custom_gradient registers for an operation of this type.
        if op.type == "IdentityN" and (name := internals.custom_gradient_of(op)) is not None:
            hold(graph, name)
        for inner in _graphs(op):
            hold_all(inner)


def share(graph: tf.Graph, name: str) -> None:
    """Keeps a registered gradient as long as a graph: one with a copy of the operation.

    Args:
      graph: The copy's.
      name: Its name in the registry.
    """
    gradient = _weak[name]() if name in _weak else internals.registered_gradient(name)
    if gradient is None:
        return
    # An attribute: a table of graphs would itself keep them, by what their gradients read.
    held = getattr(graph, _HELD, None)
    if held is None:
        held = {}
        setattr(graph, _HELD, held)
    held[name] = gradient


def _forget(name: str) -> None:
    internals.forget_gradient(name)
    _weak.pop(name, None)


def _graphs(op: tf.Operation) -> list[tf.Graph]:
    """The graphs of a loop or a choice, as tracing left them."""
    if op.type in ("While", "StatelessWhile"):
        names = ["cond", "body"]
    elif op.type in ("If", "StatelessIf"):
        names = ["true", "false"]
    elif op.type in ("Case", "StatelessCase"):
        names = [f"branch_{i}" for i in range(len(op.get_attr("branches")))]
    else:
        return []
    found = [internals.attached_graph(op, name) for name in names]
    return [graph for graph in found if graph is not None]
