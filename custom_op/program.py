"""The operations between primals and outputs, and the tangents that pass through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import fallback, registry
from custom_op.graphs import calls, control_flow
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, LOOPS
from custom_op.linear_maps.grouping import Readers
from custom_op.registry import has_custom_gradient
from custom_op.rules import moments, normalization_groups, pooling

Tangents = Sequence[tf.Tensor | None]


class _Step(NamedTuple):
    """A linear map from the tangents an operation reads to those of its outputs."""

    op: tf.Operation
    reads: Sequence[tf.Tensor]
    tangent_map: registry.LinearMap


class TangentProgram:
    """A piece of a traced graph as a linear map, from tangents of inputs to those of outputs.

    Building it runs the rules of the operations between them, which compute what they keep.

    Attributes:
      connected: For each input, whether an output depends on it.
      choices: The loops and branches that tangents pass.
    """

    def __init__(
        self,
        inputs: Sequence[tf.Tensor],
        outputs: Sequence[tf.Tensor],
        candidates: Sequence[tf.Operation],
    ) -> None:
        self._inputs = list(inputs)
        self._outputs = list(outputs)
        seen, needed, ancestors = _ancestors(outputs, candidates)
        readers = Readers(ancestors, outputs)
        groups = pooling.groups(ancestors, readers)
        absorbed = {name for group in groups.values() for name in group.absorbed}
        groups |= normalization_groups.groups(ancestors, readers, absorbed)
        absorbed = {name for group in groups.values() for name in group.absorbed}
        self.connected = [tensor.ref() in seen for tensor in inputs]
        dependent = {tensor.ref() for tensor in inputs}
        self.choices: list[tf.Operation] = []
        self._steps: list[_Step] = []
        for op in ancestors:
            live = [tensor.ref() in dependent for tensor in op.inputs]
            if not any(live):
                continue
            if op.type in (*LOOPS, *BRANCHES):
                self.choices.append(op)
            dependent.update(_refs(op.outputs))
            if op.name in groups:
                group = groups[op.name]
                self._steps.append(_Step(op, group.reads, group.tangent_map))
            elif op.name not in absorbed:
                self._steps.append(_Step(op, op.inputs, _tangent_map(op, live, needed)))

    def push(self, tangents: Tangents) -> list[tf.Tensor | None]:
        """Returns the tangents of the outputs from those of the inputs; None stands for zero."""
        known = {
            tensor.ref(): tangent
            for tensor, tangent in zip(self._inputs, tangents, strict=True)
            if tangent is not None
        }
        for step in self._steps:
            incoming = [known.get(tensor.ref()) for tensor in step.reads]
            if all(tangent is None for tangent in incoming):
                continue
            outgoing = step.tangent_map(*incoming)
            if outgoing is None or tf.is_tensor(outgoing):
                outgoing = [outgoing]
            for output, tangent in zip(step.op.outputs, outgoing, strict=False):
                if tangent is not None:
                    known[output.ref()] = tangent
        return [known.get(tensor.ref()) for tensor in self._outputs]


def _ancestors(
    outputs: Sequence[tf.Tensor], candidates: Sequence[tf.Operation]
) -> tuple[set[Any], set[Any], list[tf.Operation]]:
    """Returns the tensors that outputs depend on, and the operations that tangents pass.

    Returns:
      All tensors that outputs depend on; those among them whose tangents reach the outputs; and
      the operations that these tangents pass, in order. Tensors read behind a stopped gradient
      are only among the first: they need not be differentiable.
    """
    seen, needed = _refs(outputs), _refs(outputs)
    found = []
    for op in reversed(candidates):
        if not any(output.ref() in seen for output in op.outputs):
            continue
        read = op.inputs
        if has_custom_gradient(op):
            # Its function's own operations do not affect the derivative.
            read = [op.inputs[i] for i in fallback.inputs_with_gradient(op)]
        seen |= _refs(read)
        if not _stops(op) and any(output.ref() in needed for output in op.outputs):
            found.append(op)
            needed |= _refs(read)
    return seen, needed, found[::-1]


def _stops(op: tf.Operation) -> bool:
    """Whether tangents end in an operation."""
    if op.type in ("ZerosLike", "OnesLike"):
        return True
    return op.type == "StopGradient" and not moments.is_stopped_mean(op)


def _refs(tensors: Sequence[tf.Tensor]) -> set[Any]:
    return {tensor.ref() for tensor in tensors if fallback.carries_tangents(tensor)}


def _tangent_map(op: tf.Operation, live: Sequence[bool], needed: set[Any]) -> Callable[..., Any]:
    for types, tangent_map in (
        (CALLS, calls.call),
        (LOOPS, control_flow.loop),
        (BRANCHES, control_flow.branches),
    ):
        if op.type in types:
            return tangent_map(op, live, TangentProgram)
    # A custom_gradient replaces an operation's derivative, so its rule does not apply.
    rule = None if has_custom_gradient(op) else registry.find_rule(op.type)
    return fallback.double_vjp(op, needed) if rule is None else rule(op)
