"""The contents of a picture: the nodes of a traced function, their edges and scopes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from custom_op.graphs.inner_graphs import ancestors

Scope = tuple[str, ...]

_UNSEEN = ("Identity", "ReadVariableOp", "StopGradient", "PreventGradient", "NoOp")


@dataclasses.dataclass(frozen=True)
class Node:
    """A box or an oval of a picture.

    Attributes:
      key: A unique key: the operation's name or the scope's path.
      kind: `"variable"` (inputs and variables), `"constant"`, `"operation"`, `"output"`, or
        `"group"` for a scope that is drawn as one node.
      label: The first line.
      detail: The second line: shape and dtype, or the size of a group.
      scope: The name scopes around it, outermost first.
    """

    key: str
    kind: str
    label: str
    detail: str
    scope: Scope


@dataclasses.dataclass
class Graph:
    """Nodes by key, and edges as pairs of keys."""

    nodes: dict[str, Node]
    edges: list[tuple[str, str]]


def read(
    concrete: Any, names: Sequence[str], results: Sequence[str], constants: bool = False
) -> Graph:
    """Returns the graph that a picture of a traced function shows.

    Operations that pass a tensor on unchanged are left out, and without `constants` also integer
    constants (sizes, axes and indices).

    Args:
      concrete: The traced function.
      names: The names of its inputs.
      results: The names of its outputs.
      constants: Whether integer constants are shown too.

    Returns:
      The graph.
    """
    graph = concrete.graph
    variables = {id(variable.handle): variable for variable in graph.variables}
    captured = {internal.ref(): external for external, internal in graph.captures}
    inputs = {tensor.ref(): name for tensor, name in zip(concrete.inputs, names, strict=False)}
    nodes: dict[str, Node] = {}

    def source(tensor: tf.Tensor) -> tf.Tensor:
        while tensor.op.type in _UNSEEN and tensor.op.inputs:
            tensor = tensor.op.inputs[0]
        return tensor

    def add(tensor: tf.Tensor) -> str | None:
        """Returns the key of the node that computes a tensor; None if it is not shown."""
        op = tensor.op
        if op.name in nodes:
            return op.name
        *scope, last = op.name.split("/")
        kind, label, detail = "operation", op.type, _describe(op.outputs[0])
        if tensor.ref() in inputs:
            kind, label, scope = "variable", inputs[tensor.ref()], []
        elif tensor.ref() in captured:
            variable = variables.get(id(captured[tensor.ref()]))
            scope = []
            if variable is None:
                kind, label = "constant", "closed over"
            else:
                kind, detail = "variable", _describe(variable)
                label = variable.name.removesuffix(":0")
        elif op.type == "Const":
            if not (constants or tensor.dtype.is_floating):
                return None
            value = tf.get_static_value(tensor)
            kind, label = "constant", f"{value:.6g}" if value.shape == () else "constant"
        elif last and op.type in ("PartitionedCall", "StatefulPartitionedCall"):
            label = "call " + last
        nodes[op.name] = Node(op.name, kind, label, detail, tuple(scope))
        return op.name

    edges = dict.fromkeys(_edges(concrete, results, source, add, nodes))
    working = {
        node.scope[:depth]
        for node in nodes.values()
        if node.kind == "operation"
        for depth in range(len(node.scope) + 1)
    }
    for key, node in nodes.items():
        # TensorFlow puts the number in x + 3 into its own scope.
        scope = node.scope
        while scope and scope not in working:
            scope = scope[:-1]
        nodes[key] = dataclasses.replace(node, scope=scope)
    return Graph(nodes, list(edges))


def _edges(
    concrete: Any,
    results: Sequence[str],
    source: Callable[[tf.Tensor], tf.Tensor],
    add: Callable[[tf.Tensor], str | None],
    nodes: dict[str, Node],
) -> Iterator[tuple[str, str]]:
    """Yields the edges and adds their nodes, those of the results last."""
    ends = [source(tensor) for tensor in concrete.outputs]
    for op in ancestors(ends):
        if op.type in _UNSEEN and op.inputs:
            continue
        target = add(op.outputs[0])
        for tensor in op.inputs:
            start = add(source(tensor))
            if start is not None and target is not None:
                yield start, target
    for name, end, tensor in zip(results, ends, concrete.outputs, strict=True):
        key = f"output {name}"
        nodes[key] = Node(key, "output", name, _describe(tensor), ())
        start = add(end)
        if start is not None:
            yield start, key


def collapse(graph: Graph, depth: int | None) -> Graph:
    """Merges every scope below a depth into one node.

    Args:
      graph: The graph with all its nodes.
      depth: The number of nested scopes that may be open; 0 for none, None for all.

    Returns:
      The smaller graph.
    """
    if depth is None:
        return graph
    place = {}
    for key, node in graph.nodes.items():
        deep = len(node.scope) > depth
        place[key] = "scope " + "/".join(node.scope[: depth + 1]) if deep else key
    members: dict[str, list[Node]] = {}
    for key, target in place.items():
        members.setdefault(target, []).append(graph.nodes[key])
    nodes = {}
    for target, inside in members.items():
        first = inside[0]
        if target in graph.nodes:
            nodes[target] = first
            continue
        count = sum(node.kind == "operation" for node in inside)
        nodes[target] = Node(
            target,
            "group",
            first.scope[depth],
            f"{count} operation{'' if count == 1 else 's'}",
            first.scope[:depth],
        )
    pairs = ((place[a], place[b]) for a, b in graph.edges)
    return Graph(nodes, list(dict.fromkeys((a, b) for a, b in pairs if a != b)))


def _describe(tensor: Any) -> str:
    """Returns the shape and dtype, for example "[3, ?] float32"."""
    if tensor.dtype in (tf.variant, tf.resource):
        return tensor.dtype.name
    if tensor.shape.rank is None:
        return f"[…] {tensor.dtype.name}"
    sizes = ", ".join("?" if size is None else str(size) for size in tensor.shape)
    return f"[{sizes}] {tensor.dtype.name}" if sizes else tensor.dtype.name
