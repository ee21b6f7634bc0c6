"""Choices that depend on random numbers and on a differentiated value, such as dropout's rate.

`uniform >= rate` has no derivative in the rate. A tangent through the rest of the computation
belongs to a single draw: its average silently differs from the derivative of the average. With a
constant in place of the rate there is no such problem.

`gradient_paths.Paths.drawn` finds more kinds of decision, which only hypergradients refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import fallback, structures
from custom_op.graphs.held_graphs import HOLDERS, any_operation, states_through
from custom_op.graphs.inner_graphs import ancestors

Structure = Any

_DRAWING = re.compile(
    "(Stateless|Stateful|Parameterized|StatelessParameterized)?"
    "(Random)?(Uniform|Normal|StandardNormal|TruncatedNormal|Gamma)(V[0-9])?"
)
_COMPARING = frozenset(["Greater", "GreaterEqual", "Less", "LessEqual", "LowerBound", "UpperBound"])
_ROUNDING = frozenset(["Ceil", "Floor", "Rint", "Round", "Sign"])


class _State(NamedTuple):
    """Whether a tensor depends on the inputs, and on random draws."""

    moves: bool = False
    random: bool = False


@tf.autograph.experimental.do_not_convert
def random_choices(function: Callable[[Structure], Structure], inputs: Structure) -> list[str]:
    """Returns the operations of a function that choose by random draws and its inputs together.

    Code that differentiates with tapes alone can ask before trusting a derivative in `inputs`;
    `jvp`, `linearize` and the operators refuse such functions themselves.

    Args:
      function: A function of a structure of tensors. It is traced, not run.
      inputs: The differentiated inputs: a structure of tensors, variables or arrays.

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
    """Raises if outputs depend on a choice that draws and inputs make together.

    Args:
      inputs: The differentiated tensors.
      outputs: The outputs.
      operations: The traced operations that may lie between, in order.

    Raises:
      NotDifferentiableError: If there is such a choice; it names the operation.
    """
    if not any_operation(_draws, operations):
        return
    found: dict[tf.Operation, None] = {}
    read = set(ancestors(outputs))
    between = [op for op in operations if op in read]
    _walk(between, {tensor.ref(): _State(moves=True) for tensor in inputs}, found)
    for op in found:
        raise fallback.NotDifferentiableError(
            fallback.refusal(
                op,
                "random numbers and what is differentiated make a choice there, as in dropout with "
                "a rate that moves, and the derivative of a draw is not that of the average",
                "stop that value with tf.stop_gradient if it is meant to be constant",
            )
        )


def _walk(
    operations: Sequence[tf.Operation],
    states: dict[Any, _State],
    found: dict[tf.Operation, None],
) -> None:
    """Fills in the states of the outputs of operations, and finds operations that choose."""

    def of_graph(
        inputs: Sequence[tf.Tensor],
        outputs: Sequence[tf.Tensor],
        inside: Sequence[tf.Operation],
        read: Sequence[_State],
    ) -> list[_State]:
        inner = {tensor.ref(): state for tensor, state in zip(inputs, read, strict=False)}
        _walk(inside, inner, found)
        return [inner.get(output.ref(), _State()) for output in outputs]

    for op in operations:
        read = [states.get(value.ref(), _State()) for value in op.inputs]
        if op.type in _COMPARING and _chooses(read):
            found[op] = None
        if op.type in _ROUNDING and read[0].moves and read[0].random:
            found[op] = None
        if op.type in HOLDERS:
            made = states_through(op, read, of_graph, _either)
        else:
            random = _draws(op) or any(state.random for state in read)
            moves = op.type != "StopGradient" and any(state.moves for state in read)
            made = [
                _State(moves and fallback.carries_tangents(value), random) for value in op.outputs
            ]
        for output, state in zip(op.outputs, made, strict=False):
            if any(state):
                states[output.ref()] = state


def _chooses(read: Sequence[_State]) -> bool:
    """Whether a value that depends on the inputs is compared with draws that do not."""
    return any(one.moves and other.random and not other.moves for one, other in (read, read[::-1]))


def _either(a: _State, b: _State) -> _State:
    return _State(a.moves or b.moves, a.random or b.random)


def _draws(op: tf.Operation) -> bool:
    return _DRAWING.fullmatch(op.type) is not None
