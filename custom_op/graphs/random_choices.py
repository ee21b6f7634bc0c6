"""Choices that random numbers and a differentiated value make together, as dropout's rate does.

`uniform >= rate` has no derivative in the rate, and a tangent that passes the rest of the
computation alone is that of one draw: on average it is not the derivative of the average. No
error would tell. Where the comparison is with a constant, nothing of this matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import fallback, structures
from custom_op.graphs.copying import Branches, Loop
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, LOOPS, ancestors, called_graph

Structure = Any

_DRAWING = re.compile(
    "(Stateless|Stateful|Parameterized|StatelessParameterized)?"
    "(Random)?(Uniform|Normal|StandardNormal|TruncatedNormal|Gamma)(V[0-9])?"
)
_COMPARING = frozenset(["Greater", "GreaterEqual", "Less", "LessEqual", "LowerBound", "UpperBound"])
_ROUNDING = frozenset(["Ceil", "Floor", "Rint", "Round", "Sign"])


class _State(NamedTuple):
    """What is known of a tensor: whether it moves with the inputs, and is made of draws."""

    moves: bool = False
    random: bool = False


@tf.autograph.experimental.do_not_convert
def random_choices(function: Callable[[Structure], Structure], inputs: Structure) -> list[str]:
    """Returns the operations of a function in which draws and its inputs make a choice.

    Who differentiates with tapes alone asks this before trusting a derivative in `inputs`; `jvp`,
    `linearize` and the operators refuse such functions themselves.

    Args:
      function: Takes a structure of tensors. It is traced, not run.
      inputs: The structure, of tensors, variables or arrays: what is differentiated.

    Returns:
      The operations' names, such as `"dropout/GreaterEqual"`, in the order of the trace.
    """
    specs = tf.nest.map_structure(structures.spec_of, inputs)
    graph = tf.function(function, autograph=False).get_concrete_function(specs).graph
    count = len(tf.nest.flatten(specs))
    found: dict[tf.Operation, None] = {}
    states = {tensor.ref(): _State(moves=True) for tensor in graph.inputs[:count]}
    _walk(graph.get_operations(), states, found)
    return [op.name for op in found]


def check(
    inputs: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor], operations: Sequence[tf.Operation]
) -> None:
    """Raises if draws and inputs make a choice together, on which the outputs depend.

    Args:
      inputs: What is differentiated.
      outputs: Of what.
      operations: The traced ones that may lie between, in order.

    Raises:
      NotDifferentiableError: It names the operation that chooses.
    """
    if not any(map(_draws, operations)):
        return
    found: dict[tf.Operation, None] = {}
    read = set(ancestors(outputs))
    between = [op for op in operations if op in read]
    _walk(between, {tensor.ref(): _State(moves=True) for tensor in inputs}, found)
    for op in found:
        raise fallback.refusal(
            op,
            "random numbers and what is differentiated make a choice there, as in dropout with a "
            "rate that moves, and the derivative of a draw is not that of the average",
            "stop that value with tf.stop_gradient if it is meant to be constant",
        )


def _walk(
    operations: Sequence[tf.Operation],
    states: dict[Any, _State],
    found: dict[tf.Operation, None],
) -> None:
    """Fills in the states of the outputs of operations, and finds those that choose."""
    for op in operations:
        read = [states.get(value.ref(), _State()) for value in op.inputs]
        if op.type in _COMPARING and _chooses(read):
            found[op] = None
        if op.type in _ROUNDING and read[0].moves and read[0].random:
            found[op] = None
        if op.type in (*CALLS, *LOOPS, *BRANCHES):
            made = _walk_inside(op, read, found)
        else:
            random = bool(_DRAWING.fullmatch(op.type)) or any(state.random for state in read)
            moves = op.type != "StopGradient" and any(state.moves for state in read)
            made = [
                _State(moves and fallback.carries_tangents(value), random) for value in op.outputs
            ]
        for output, state in zip(op.outputs, made, strict=False):
            if any(state):
                states[output.ref()] = state


def _chooses(read: Sequence[_State]) -> bool:
    """Whether a value that moves is compared with draws that do not."""
    return any(one.moves and other.random and not other.moves for one, other in (read, read[::-1]))


def _walk_inside(
    op: tf.Operation, read: list[_State], found: dict[tf.Operation, None]
) -> list[_State]:
    """Walks the graphs of a call, a loop or a branch; returns the states of its outputs."""
    if op.type in LOOPS:
        loop = Loop(op)
        current = read[: len(loop.variables)]
        while True:
            after = _of_graph(loop.variables, loop.results, loop.operations, current, found)
            grown = [_either(*pair) for pair in zip(current, after, strict=True)]
            if grown == current:
                return grown
            current = grown
    if op.type in BRANCHES:
        parts = Branches(op)
        ends = [
            _of_graph(inputs, outputs, operations, read[1:], found)
            for inputs, outputs, operations in zip(
                parts.inputs, parts.outputs, parts.operations, strict=True
            )
        ]
        return [_either(*states) for states in zip(*ends, strict=True)]
    body = called_graph(op)
    return _of_graph(body.inputs, body.outputs, body.get_operations(), read, found)


def _of_graph(inputs, outputs, operations, read, found) -> list[_State]:
    states = {tensor.ref(): state for tensor, state in zip(inputs, read, strict=False)}
    _walk(operations, states, found)
    return [states.get(output.ref(), _State()) for output in outputs]


def _either(*states: _State) -> _State:
    return _State(any(s.moves for s in states), any(s.random for s in states))


def _draws(op: tf.Operation) -> bool:
    """Whether an operation draws random numbers, or what it calls does."""
    if _DRAWING.fullmatch(op.type):
        return True
    inside: list[Any] = []
    if op.type in LOOPS:
        inside = [Loop(op).operations]
    elif op.type in BRANCHES:
        inside = Branches(op).operations
    elif op.type in CALLS:
        inside = [called_graph(op).get_operations()]
    return any(_draws(inner) for operations in inside for inner in operations)
