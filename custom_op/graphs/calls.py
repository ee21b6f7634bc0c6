"""Tangents through a call of a `tf.function` inside the differentiated function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from custom_op import fallback, registry
from custom_op.graphs.copying import Copies, Traced
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, CHECKS, LOOPS, called_graph, inside
from custom_op.rules.lists import zeros_like

_HARMLESS = (*CALLS, *LOOPS, *BRANCHES, *CHECKS)


def call(op: tf.Operation, live: Sequence[bool], program: Callable[..., Any]) -> registry.LinearMap:
    """Returns the tangent map of a call, from the operations of the called function.

    Intermediate values that the derivative reads are computed by copies of the function's
    operations next to the call; if the call is stateless, TensorFlow's optimizer merges them with
    the call's own.

    Args:
      op: The call.
      live: For each input, whether it depends on the primals.
      program: The builder of the linear map of a piece of a graph; `TangentProgram`.

    Returns:
      A map from one tangent (or None) per input to one tangent (or None) per output.

    Raises:
      NotDifferentiableError: If copies of the function's operations may compute something else
        (it draws random numbers, or assigns a variable that it reads).
    """
    body = called_graph(op)
    chosen = [i for i, depends in enumerate(live) if depends]
    operations = body.get_operations()
    # TensorFlow appends outputs for a backward pass; the call has only the first ones.
    derivative = Derivative(
        body.inputs, body.outputs[: len(op.outputs)], chosen, operations, program
    )
    check = check_repeatable(op, operations, "calls a tf.function")
    residuals = derivative.residuals(Copies(body.inputs, op.inputs, check))

    def push(*tangents: tf.Tensor | None) -> list[tf.Tensor | None]:
        filled = [zeros_like(op.inputs[i]) if tangents[i] is None else tangents[i] for i in chosen]
        return derivative.push_with(residuals, filled)

    return push


class Derivative:
    """The linear map of a function's graph, made in that graph and written out in others.

    It is traced within the function's own graph, because a `tf.custom_gradient` there refers to
    tensors of that graph. Copies supply the intermediate values that it reads.

    Attributes:
      reached: For each output, whether a tangent arrives there.
      reads: The tensors of the function's graph that the map reads.
    """

    def __init__(
        self,
        inputs: Sequence[tf.Tensor],
        outputs: Sequence[tf.Tensor],
        chosen: Sequence[int],
        operations: Sequence[tf.Operation],
        program: Callable[..., Any],
    ) -> None:
        """Traces the map from tangents of chosen inputs to those of all outputs.

        Args:
          inputs: The inputs of the function's graph.
          outputs: Tensors of the function's graph.
          chosen: The positions of the inputs with tangents.
          operations: The operations of the function's graph.
          program: The builder of the linear map of a piece of a graph; `TangentProgram`.
        """
        live = [inputs[i] for i in chosen]
        parts: list[Traced] = []

        def prepare(_: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            steps = program(live, outputs, operations)
            parts.append(Traced(steps.push, live))
            return parts[0].residuals

        with outputs[0].graph.as_default():
            self._prepared = Traced(prepare, [])
        self._push = parts[0]
        self.reached = list(self._push.outputs)
        # A custom_gradient may read tensors around the function directly, past its captures.
        self._graph = outputs[0].graph
        self._wanted = [inside(tensor, self._graph) for tensor in self._prepared.residuals]
        self.reads = [
            tensor for tensor in self._wanted if getattr(tensor, "graph", None) is self._graph
        ]

    def residuals(self, copies: Copies) -> list[tf.Tensor]:
        """Computes the tensors that the map reads, in the current graph, from copies."""
        computed = self._prepared.inline([], copies.compute_from(self._graph, self._wanted))
        return [tensor for tensor in computed if tensor is not None]

    def push_with(
        self, residuals: Sequence[tf.Tensor], tangents: Sequence[tf.Tensor]
    ) -> list[tf.Tensor | None]:
        """Maps tangents of the chosen inputs, with residuals computed earlier."""
        return self._push.inline(tangents, residuals)

    def push(self, copies: Copies, tangents: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
        """Maps tangents of the chosen inputs to those of the outputs, in the current graph."""
        return self.push_with(self.residuals(copies), tangents)


def check_repeatable(
    op: tf.Operation,
    operations: Sequence[tf.Operation],
    what: str,
    advice: str = "call the Python function, or draw random numbers by tf.random.stateless_*",
) -> Callable[[Sequence[tf.Operation]], None]:
    """Returns a check that operations compute the same when they run a second time.

    Args:
      op: The call, loop or choice that holds them, for the error.
      operations: All of the function's operations.
      what: The use that `op` makes of the function, for the error.
      advice: The way out, for the error.

    Returns:
      A function of the operations to be copied, which raises NotDifferentiableError.
    """
    assigned = any(inner.type.startswith("Assign") for inner in operations)

    def check(making: Sequence[tf.Operation]) -> None:
        for inner in making:
            if inner.type == "ReadVariableOp":
                if assigned:
                    raise fallback.NotDifferentiableError(
                        fallback.refusal(op, f"it {what} that reads and assigns variables", advice)
                    )
            elif inner.op_def.is_stateful and inner.type not in _HARMLESS:
                raise fallback.NotDifferentiableError(
                    fallback.refusal(op, f"it {what} in which {inner.type!r} has a state", advice)
                )

    return check
