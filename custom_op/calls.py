"""Tangents through a call of a `tf.function` inside the differentiated function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from custom_op import fallback, registry
from custom_op.traced import Traced

TYPES = ("PartitionedCall", "StatefulPartitionedCall")


def tangent_map(
    op: tf.Operation, live: Sequence[bool], program: Callable[..., Any]
) -> registry.LinearMap:
    """Returns the tangent map of a call, from the operations of the called function.

    Its derivative is traced within its own graph, because a `tf.custom_gradient` in there refers
    to tensors of that graph. What the derivative reads of the function's inside is computed by
    copies of its operations next to the call; TensorFlow's optimizer merges them with the call's
    own where the call is stateless.

    Args:
      op: The call.
      live: For each input, whether it depends on the primals.
      program: Builds the linear map of a piece of a graph; `TangentProgram`.

    Returns:
      A map from one tangent (or None) an input to one tangent (or None) an output.

    Raises:
      NotDifferentiableError: If copies of the function's operations need not compute the same
        (it draws random numbers, or assigns a variable that it reads).
    """
    body = _body(op)
    chosen = [i for i, depends in enumerate(live) if depends]
    parts = {}

    def prepare(_):
        inputs = [body.inputs[i] for i in chosen]
        steps = program(inputs, _outputs(op, body), body.get_operations())
        parts["push"] = Traced(steps.push, inputs)
        return parts["push"].residuals

    with body.as_default():
        prepared = Traced(prepare, [])
    copied = _copy(op, body, op.inputs, prepared.residuals)
    residuals = prepared.inline([], copied)
    push = parts["push"]

    def push_tangents(*tangents):
        filled = [
            tf.zeros_like(op.inputs[i]) if tangents[i] is None else tangents[i] for i in chosen
        ]
        return push.inline(filled, residuals)

    return push_tangents


def _body(op: tf.Operation) -> Any:
    """Returns the graph of the called function."""
    name = op.get_attr("f").name
    graph = op.graph
    while graph is not None:
        function = graph._get_function(name)
        if function is not None:
            return function.graph
        graph = getattr(graph, "outer_graph", None)
    raise fallback.refusal(op, f"the body of {name!r} is missing", "call the Python function")


def _outputs(op: tf.Operation, body: Any) -> list[tf.Tensor]:
    # TensorFlow appends what a backward pass needs; the call has the first ones.
    return body.outputs[: len(op.outputs)]


def _copy(
    op: tf.Operation, body: Any, arguments: Sequence[tf.Tensor], wanted: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Computes tensors of the called function from the inputs of the call."""
    known = {inner.ref(): outer for inner, outer in zip(body.inputs, arguments, strict=True)}
    needed = {tensor.ref() for tensor in wanted} - set(known)
    making = []
    for inner in reversed(body.get_operations()):
        if any(output.ref() in needed for output in inner.outputs):
            making.append(inner)
            needed.update(value.ref() for value in inner.inputs if value.ref() not in known)
    _check_repeatable(op, body, making)
    for inner in reversed(making):
        values = [known[value.ref()] for value in inner.inputs]
        if inner.type in TYPES:
            # Not the call itself: no tape could look into a copy of it.
            nested = _body(inner)
            copies = _copy(op, nested, values, _outputs(inner, nested))
        else:
            copies = registry.replay(inner, values)
        for output, copy in zip(inner.outputs, copies, strict=True):
            known[output.ref()] = copy
    return [known[tensor.ref()] for tensor in wanted]


def _check_repeatable(op: tf.Operation, body: Any, making: Sequence[tf.Operation]) -> None:
    """Raises if operations could give something else when they run a second time."""
    reads = [inner for inner in making if inner.type == "ReadVariableOp"]
    for inner in making:
        if inner.op_def.is_stateful and inner not in reads and inner.type not in TYPES:
            raise fallback.refusal(
                op,
                f"it calls a tf.function in which {inner.type!r} has a state",
                "call the Python function, or draw random numbers by tf.random.stateless_*",
            )
    if reads and any(inner.type.startswith("Assign") for inner in body.get_operations()):
        raise fallback.refusal(
            op,
            "it calls a tf.function that reads and assigns variables",
            "call the Python function",
        )
