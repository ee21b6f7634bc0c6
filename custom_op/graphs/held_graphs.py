"""The graphs that calls, loops and branches hold: their operations, and what passes through them.

A loop is followed until one more iteration changes nothing; of branches, any may be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from custom_op.graphs.copying import Branches, Loop
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, LOOPS, called_graph

HOLDERS = (*CALLS, *LOOPS, *BRANCHES)
State = TypeVar("State")
# From a graph's inputs, outputs, operations and the states of its inputs to those of its outputs.
OfGraph = Callable[
    [Sequence[tf.Tensor], Sequence[tf.Tensor], Sequence[tf.Operation], Sequence[State]],
    Sequence[State],
]


def held_operations(op: tf.Operation) -> list[Sequence[tf.Operation]]:
    """Returns the operations of each graph that an operation runs; of a loop, the body's."""
    if op.type in LOOPS:
        return [Loop(op).operations]
    if op.type in BRANCHES:
        return list(Branches(op).operations)
    return [called_graph(op).get_operations()] if op.type in CALLS else []


def any_operation(
    holds: Callable[[tf.Operation], bool], operations: Sequence[tf.Operation]
) -> bool:
    """Whether a condition holds for one of the operations, or for one that these hold."""
    return any(
        holds(op) or any(any_operation(holds, inner) for inner in held_operations(op))
        for op in operations
    )


def states_through(
    op: tf.Operation,
    states: Sequence[State],
    of_graph: OfGraph[State],
    either: Callable[[State, State], State],
    memory: Callable[[], Any] = lambda: None,
) -> list[State]:
    """Follows states from the inputs of a call, a loop or a choice to its outputs.

    Args:
      op: The operation.
      states: The states of its inputs.
      of_graph: Follows states through one graph.
      either: Joins two states, one of which applies.
      memory: What `of_graph` remembers beyond states, such as what variables hold: a loop is
        followed until that is unchanged too.

    Returns:
      The states of the outputs.
    """
    if op.type in LOOPS:
        loop = Loop(op)
        current = list(states[: len(loop.variables)])
        while True:
            remembered = memory()
            after = of_graph(loop.variables, loop.results, loop.operations, current)
            grown = [either(*pair) for pair in zip(current, after, strict=True)]
            if grown == current and memory() == remembered:
                return grown
            current = grown
    if op.type in BRANCHES:
        parts = Branches(op)
        ends = [
            of_graph(inputs, outputs, operations, states[1:])
            for inputs, outputs, operations in zip(
                parts.inputs, parts.outputs, parts.operations, strict=True
            )
        ]
        joined = list(ends[0])
        for end in ends[1:]:
            joined = [either(*pair) for pair in zip(joined, end, strict=True)]
        return joined
    body = called_graph(op)
    return list(
        of_graph(body.inputs, body.outputs[: len(op.outputs)], body.get_operations(), states)
    )
