"""Values that reach a result through text, their bits, or something that is written to.

No gradient follows a number that is written into a variable, a table or a text and read from there
again, nor its bits. The derivative silently lacks that path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import fallback
from custom_op.graphs import captured_variables
from custom_op.graphs.held_graphs import HOLDERS, any_operation, states_through
from custom_op.registry import has_custom_gradient

_STEPS = frozenset(
    "ArgMax ArgMin Ceil Equal Floor FloorDiv Greater GreaterEqual Less LessEqual NotEqual OnesLike "
    "Rint Round Shape ShapeN Sign Size StopGradient TruncateDiv ZerosLike".split()
)
_Places = frozenset[tf.Operation]


class _Held:
    """The contents of a variable, a table or another resource; one object for all its names."""

    def __init__(self) -> None:
        self.places: _Places = frozenset()


class _State(NamedTuple):
    """The state of a tensor."""

    moves: bool = False  # whether it depends on the sources, differentiably or not
    coded: _Places = frozenset()  # the operations that turned moving values into a text or bits
    lost: _Places = frozenset()  # the same, or writing operations, if a number was read from there


_STILL = _State()


def detours(
    sources: Sequence[tf.Tensor],
    targets: Sequence[tf.Tensor],
    operations: Sequence[tf.Operation] | None = None,
    repeated: bool = False,
) -> list[tf.Operation]:
    """Returns the operations at which values leave for places that no gradient follows.

    Args:
      sources: Tensors of a graph.
      targets: Tensors of the same graph.
      operations: The operations that may lie between, in order; by default all of the graph.
      repeated: Whether the graph runs repeatedly, and reads what it wrote before.

    Returns:
      The operations, including those in graphs that these hold, that write values which depend on
      the sources, or turn them into a text or bits, if targets are computed from the result.
    """
    if not targets:
        return []
    operations = targets[0].graph.get_operations() if operations is None else operations
    if not any_operation(_loses, operations):
        return []
    walk = _Walk()
    states = {tensor.ref(): _State(moves=True) for tensor in sources}
    walk.follow(operations, states)
    if repeated:
        walk.follow(operations, states)
    lost: set[tf.Operation] = set()
    for target in targets:
        lost |= states.get(target.ref(), _STILL).lost
    return sorted(lost, key=lambda op: op.name)


def check(
    sources: Sequence[tf.Tensor],
    targets: Sequence[tf.Tensor],
    operations: Sequence[tf.Operation] | None = None,
    repeated: bool = False,
) -> None:
    """Raises if targets depend on sources by a detour.

    Args:
      sources: Tensors of a graph.
      targets: Tensors of the same graph.
      operations: The operations that may lie between, in order; by default all of the graph.
      repeated: Whether the graph runs repeatedly, and reads what it wrote before.

    Raises:
      NotDifferentiableError: If there is a detour.
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
        raise fallback.NotDifferentiableError(
            fallback.refusal(
                op,
                f"{what}, and no derivative passes there",
                "use the value itself, or wrap it in tf.stop_gradient before if it is meant to be "
                "constant",
            )
        )


def _loses(op: tf.Operation) -> bool:
    return _codes(op) or _writes(op)


def _codes(op: tf.Operation) -> bool:
    if not any(fallback.carries_tangents(value) for value in op.inputs):
        return False
    return op.type == "Bitcast" or any(output.dtype == tf.string for output in op.outputs)


def _writes(op: tf.Operation) -> bool:
    resource = any(value.dtype == tf.resource for value in op.inputs)
    return resource and not op.outputs


class _Walk:
    """Follows values through operations and the graphs that they hold."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}

    def follow(self, operations: Sequence[tf.Operation], states: dict[Any, Any]) -> None:
        """Fills in the states of the outputs of operations, and the contents of resources."""
        for op in operations:
            read = [self._read(value, states) for value in op.inputs]
            if op.type in HOLDERS:
                made = states_through(op, read, self._graph, _either, self._total)
            else:
                if has_custom_gradient(op):
                    # Its function's own operations do not affect the derivative.
                    read = [read[i] for i in fallback.inputs_with_gradient(op)]
                made = self._through(op, read)
            for output, state in zip(op.outputs, made, strict=False):
                if state != _STILL:
                    states[output.ref()] = _either(states.get(output.ref(), _STILL), state)

    def _read(self, tensor: tf.Tensor, states: dict[Any, Any]) -> _State | _Held:
        if tensor.dtype != tf.resource:
            return states.get(tensor.ref(), _STILL)
        if tensor.ref() not in states:
            outermost = captured_variables.outermost(tensor)
            states[tensor.ref()] = self._held.setdefault(id(outermost), _Held())
        return states[tensor.ref()]

    def _through(self, op: tf.Operation, read: Sequence[_State | _Held]) -> list[_State | _Held]:
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

    def _made(
        self,
        op: tf.Operation,
        output: tf.Tensor,
        moves: bool,
        coded: _Places,
        lost: _Places,
        resources: Sequence[_Held],
    ) -> _State | _Held:
        if output.dtype == tf.resource:
            return resources[0] if resources else _STILL
        if fallback.carries_tangents(output):
            if op.type in _STEPS:
                return _STILL
            return _State(moves and not (op.type == "Bitcast"), frozenset(), lost | coded)
        # Integers made from a text are constant almost everywhere; bits are not.
        texts = any(value.dtype == tf.string for value in op.inputs)
        return _State(False, coded if output.dtype == tf.string or not texts else frozenset())

    def _graph(
        self,
        inputs: Sequence[tf.Tensor],
        outputs: Sequence[tf.Tensor],
        operations: Sequence[tf.Operation],
        read: Sequence[_State | _Held],
    ) -> list[_State | _Held]:
        states = {
            tensor.ref(): state
            for tensor, state in zip(inputs, read, strict=False)
            if isinstance(state, _Held) or state != _STILL
        }
        self.follow(operations, states)
        return [self._read(output, states) for output in outputs]

    def _total(self) -> int:
        return sum(len(held.places) for held in self._held.values())


def _either(a: Any, b: Any) -> Any:
    if isinstance(a, _Held) or isinstance(b, _Held):
        return a
    return _State(a.moves or b.moves, a.coded | b.coded, a.lost | b.lost)
