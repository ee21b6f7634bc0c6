"""Values that reach a result by text, by their bits or by something that is written to.

No gradient follows a number that is written into a variable, a table or a text and read from there
again, nor its bits. What is left of the derivative lacks that path, and no error would tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import fallback
from custom_op.graphs import captured_variables
from custom_op.graphs.copying import Branches, Loop
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, LOOPS, called_graph
from custom_op.registry import has_custom_gradient

_STEPS = frozenset(
    "ArgMax ArgMin Ceil Equal Floor FloorDiv Greater GreaterEqual Less LessEqual NotEqual OnesLike "
    "Rint Round Shape ShapeN Sign Size StopGradient TruncateDiv ZerosLike".split()
)
_Places = frozenset[tf.Operation]


class _Held:
    """What a variable, a table or another resource holds; one object for all names of it."""

    def __init__(self):
        self.places: _Places = frozenset()


class _State(NamedTuple):
    """What is known of a tensor."""

    moves: bool = False  # with the sources, by what has a derivative or none
    coded: _Places = frozenset()  # the operations that made a text or bits of what moves
    lost: _Places = frozenset()  # a number made of these, or of what was written there


_STILL = _State()


def detours(
    sources: Sequence[tf.Tensor],
    targets: Sequence[tf.Tensor],
    operations: Sequence[tf.Operation] | None = None,
    repeated: bool = False,
) -> list[tf.Operation]:
    """Returns the operations at which values leave for a place that no gradient follows.

    Args:
      sources: Tensors of a graph.
      targets: Tensors of the same graph.
      operations: Those that may lie between, in order; by default all of the graph.
      repeated: Whether the graph runs again and again, and reads what it wrote before.

    Returns:
      Those of them, or of the graphs that they hold, that write, or make a text or bits, of what
      depends on the sources, where targets are computed from what is read there.
    """
    if not targets:
        return []
    operations = targets[0].graph.get_operations() if operations is None else operations
    if not any(map(_may_lose, operations)):
        return []
    walk = _Walk()
    states = {tensor.ref(): _State(moves=True) for tensor in sources}
    walk.follow(operations, states)
    if repeated:
        walk.follow(operations, states)
    found: set[tf.Operation] = set()
    for target in targets:
        found |= states.get(target.ref(), _STILL).lost
    return sorted(found, key=lambda op: op.name)


def check(
    sources: Sequence[tf.Tensor],
    targets: Sequence[tf.Tensor],
    operations: Sequence[tf.Operation] | None = None,
    repeated: bool = False,
) -> None:
    """Raises NotDifferentiableError if targets depend on sources by a detour.

    Args:
      sources: Tensors of a graph.
      targets: Tensors of the same graph.
      operations: Those that may lie between, in order; by default all of the graph.
      repeated: As for `detours`.
    """
    for op in detours(sources, targets, operations, repeated):
        resource = any(value.dtype == tf.resource for value in op.inputs)
        what = (
            "it writes what is differentiated into a variable, a table or the like, from which the "
            "result is computed"
            if resource
            else "it makes a text or bits of what is differentiated, from which the result is "
            "computed"
        )
        raise fallback.refusal(
            op,
            f"{what}, and no derivative passes there",
            "use the value itself, or wrap it in tf.stop_gradient before if it is meant to be "
            "constant",
        )


def _may_lose(op: tf.Operation) -> bool:
    """Whether an operation, or one in a graph that it holds, writes or makes a text or bits."""
    if op.type in LOOPS:
        return any(map(_may_lose, Loop(op).operations))
    if op.type in BRANCHES:
        return any(any(map(_may_lose, inside)) for inside in Branches(op).operations)
    if op.type in CALLS:
        return any(map(_may_lose, called_graph(op).get_operations()))
    return _codes(op) or _writes(op)


def _codes(op: tf.Operation) -> bool:
    if not any(fallback.carries_tangents(value) for value in op.inputs):
        return False
    return op.type == "Bitcast" or any(output.dtype == tf.string for output in op.outputs)


def _writes(op: tf.Operation) -> bool:
    resource = any(value.dtype == tf.resource for value in op.inputs)
    return resource and not op.outputs


class _Walk:
    """Follows values through operations and the graphs that these hold."""

    def __init__(self):
        self._held: dict[int, _Held] = {}

    def follow(self, operations: Sequence[tf.Operation], states: dict[Any, Any]) -> None:
        """Fills in the states of the outputs of operations; of resources, what they hold."""
        for op in operations:
            read = [self._read(value, states) for value in op.inputs]
            if op.type in (*CALLS, *LOOPS, *BRANCHES):
                made = self._inside(op, read)
            else:
                if has_custom_gradient(op):
                    # What its function computes inside has no say in the derivative.
                    read = [read[i] for i in fallback.inputs_with_gradient(op)]
                made = self._through(op, read)
            for output, state in zip(op.outputs, made, strict=False):
                if state != _STILL:
                    states[output.ref()] = _either(states.get(output.ref(), _STILL), state)

    def _read(self, tensor, states):
        if tensor.dtype != tf.resource:
            return states.get(tensor.ref(), _STILL)
        if tensor.ref() not in states:
            outermost = captured_variables.outermost(tensor)
            states[tensor.ref()] = self._held.setdefault(id(outermost), _Held())
        return states[tensor.ref()]

    def _through(self, op, read):
        values = [state for state in read if isinstance(state, _State)]
        resources = [state for state in read if isinstance(state, _Held)]
        lost = frozenset().union(*(state.lost for state in values))
        coded = frozenset().union(*(state.coded for state in values))
        moves = op.type not in _STEPS and any(state.moves for state in values)
        if _writes(op):
            for held in resources:
                held.places |= lost | coded | (frozenset([op]) if moves else frozenset())
            return []
        for held in resources:
            lost |= held.places
        if moves and _codes(op):
            coded |= {op}
        return [self._made(op, output, moves, coded, lost, resources) for output in op.outputs]

    def _made(self, op, output, moves, coded, lost, resources):
        if output.dtype == tf.resource:
            return resources[0] if resources else _STILL
        if fallback.carries_tangents(output):
            if op.type in _STEPS:
                return _STILL
            return _State(moves and not (op.type == "Bitcast"), frozenset(), lost | coded)
        # Whole numbers made of a text do not move almost everywhere; bits do.
        texts = any(value.dtype == tf.string for value in op.inputs)
        return _State(False, coded if output.dtype == tf.string or not texts else frozenset())

    def _inside(self, op, read):
        if op.type in LOOPS:
            loop = Loop(op)
            current, before = list(read[: len(loop.variables)]), None
            while (current, self._total()) != before:
                before = (list(current), self._total())
                after = self._graph(loop.variables, loop.results, loop.operations, current)
                current = [_either(*pair) for pair in zip(current, after, strict=True)]
            return current
        if op.type in BRANCHES:
            parts = Branches(op)
            ends = [
                self._graph(inputs, outputs, operations, read[1:])
                for inputs, outputs, operations in zip(
                    parts.inputs, parts.outputs, parts.operations, strict=True
                )
            ]
            return [_either(*states) for states in zip(*ends, strict=True)]
        body = called_graph(op)
        return self._graph(body.inputs, body.outputs, body.get_operations(), read)

    def _graph(self, inputs, outputs, operations, read):
        states = {
            tensor.ref(): state
            for tensor, state in zip(inputs, read, strict=False)
            if isinstance(state, _Held) or state != _STILL
        }
        self.follow(operations, states)
        return [self._read(output, states) for output in outputs]

    def _total(self):
        return sum(len(held.places) for held in self._held.values())


def _either(*states):
    if any(isinstance(state, _Held) for state in states):
        return states[0]
    return _State(
        any(state.moves for state in states),
        frozenset().union(*(state.coded for state in states)),
        frozenset().union(*(state.lost for state in states)),
    )
