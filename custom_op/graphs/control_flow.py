"""Tangents through loops and branches of a traced graph.

A loop of the tangents runs beside a copy of the loop itself: its body computes the variables and
pushes their tangents through the same operations. It stores nothing of the iterations; its
transpose, TensorFlow's gradient of a loop, does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from custom_op import fallback, registry
from custom_op import tensorflow_internals as internals
from custom_op.graphs.calls import Derivative, check_repeatable
from custom_op.graphs.copying import Branches, Copies, Loop
from custom_op.graphs.held_graphs import any_operation
from custom_op.graphs.inner_graphs import BRANCHES, LOOPS, ancestors
from custom_op.rules.lists import zeros_like


def loop(op: tf.Operation, live: Sequence[bool], program: Callable[..., Any]) -> registry.LinearMap:
    """Returns the tangent map of a `while` operation.

    Args:
      op: The loop.
      live: For each input, whether it depends on the primals.
      program: The builder of the linear map of a piece of a graph; `TangentProgram`.

    Returns:
      A map from one tangent (or None) per input to one tangent (or None) per output.

    Raises:
      NotDifferentiableError: If copies of the body's operations may compute something else.
    """
    parts = Loop(op)
    values = list(op.inputs)[: len(parts.variables)]
    live = _grown(parts, live)
    chosen = [i for i, depends in enumerate(live) if depends]
    changing = [i for i in chosen if parts.moving[i]]
    if not changing:
        # The primals determine at most the number of iterations.
        return lambda *tangents: [
            None if moves else tangent
            for tangent, moves in zip(tangents, parts.moving, strict=False)
        ]
    check = check_repeatable(
        op, parts.operations, "runs a loop", "write it as a Python loop, or draw before it"
    )
    derivative = Derivative(
        parts.variables, [parts.results[i] for i in changing], chosen, parts.operations, program
    )
    # Here rather than at the first product.
    check(ancestors([*derivative.reads, *parts.results]))

    def push(*tangents: tf.Tensor | None) -> list[tf.Tensor | None]:
        given = dict(zip(chosen, _filled(chosen, tangents, values), strict=True))

        def step(copies: Copies, moved: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            current = {**given, **dict(zip(changing, moved, strict=True))}
            pushed = derivative.push(copies, [current[i] for i in chosen])
            following = copies.compute([parts.results[i] for i in changing])
            return [
                zeros_like(value) if tangent is None else tangent
                for value, tangent in zip(following, pushed, strict=True)
            ]

        make = functools.partial(Copies, check=check)
        ends = parts.run(values, [given[i] for i in changing], step, make)[len(values) :]
        result: list[tf.Tensor | None] = [tangents[i] for i in range(len(values))]
        for i, end in zip(changing, ends, strict=True):
            result[i] = end
        return result

    return push


def branches(
    op: tf.Operation, live: Sequence[bool], program: Callable[..., Any]
) -> registry.LinearMap:
    """Returns the tangent map of an `if` or a `case` operation, that of the branch taken.

    Args:
      op: The choice.
      live: For each input, whether it depends on the primals.
      program: The builder of the linear map of a piece of a graph; `TangentProgram`.

    Returns:
      A map from one tangent (or None) per input to one tangent (or None) per output.

    Raises:
      NotDifferentiableError: If copies of a branch's operations may compute something else.
    """
    parts = Branches(op)
    values, outputs = list(op.inputs), list(op.outputs)
    chosen = [i for i, depends in enumerate(live[1 : len(values)]) if depends]
    derivatives = []
    for inputs, results, operations in zip(
        parts.inputs, parts.outputs, parts.operations, strict=True
    ):
        derivative = Derivative(inputs, results, chosen, operations, program)
        check = check_repeatable(
            op, operations, "takes a branch", "choose by tf.where or a Python if"
        )
        check(ancestors(derivative.reads))
        derivatives.append(derivative)
    reached = [
        i
        for i, output in enumerate(outputs)
        if fallback.carries_tangents(output) and any(d.reached[i] for d in derivatives)
    ]

    def push(*tangents: tf.Tensor | None) -> list[tf.Tensor | None]:
        result: list[tf.Tensor | None] = [None] * len(outputs)
        if not reached:
            return result
        given = _filled(chosen, tangents[1:], values[1:])

        def results(branch: int, copies: Copies) -> list[tf.Tensor]:
            pushed = derivatives[branch].push(copies, given)
            return [zeros_like(outputs[i]) if pushed[i] is None else pushed[i] for i in reached]

        for i, tangent in zip(reached, parts.run(values, results), strict=True):
            result[i] = tangent
        return result

    return push


def check_transposable(choices: Sequence[tf.Operation], graph: tf.Graph) -> None:
    """Raises if XLA could not run the transpose of a loop or of a branch.

    Args:
      choices: The loops and branches that tangents pass.
      graph: The graph in which the transpose is to be built.

    Raises:
      NotDifferentiableError: If the graph is compiled by XLA, and a loop has no bound to size its
        lists of intermediate values by, or a branch contains a loop, whose lists XLA cannot pass
        out of it.
    """
    if not choices or not internals.is_compiled(graph):
        return
    for op in choices:
        if op.type in BRANCHES:
            if any(any_operation(_is_loop, inside) for inside in Branches(op).operations):
                raise fallback.NotDifferentiableError(
                    fallback.refusal(
                        op,
                        "XLA has no transpose of a branch that holds a loop",
                        "put the choice into the loop, compute both sides and choose by tf.where, "
                        "or compile without XLA",
                    )
                )
        elif Loop(op).maximum_iterations(list(op.inputs)) is None:
            raise fallback.NotDifferentiableError(
                fallback.refusal(
                    op,
                    "under jit_compile the transpose of a loop needs to know its longest run",
                    "give tf.while_loop a constant maximum_iterations, or compile without XLA",
                )
            )


def _is_loop(op: tf.Operation) -> bool:
    return op.type in LOOPS


def _filled(
    chosen: Sequence[int], tangents: Sequence[tf.Tensor | None], values: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Returns the tangents of chosen inputs, with zeros in place of None."""
    return [zeros_like(values[i]) if tangents[i] is None else tangents[i] for i in chosen]


def _grown(parts: Loop, live: Sequence[bool]) -> list[bool]:
    """Returns which variables depend on the primals after any number of iterations."""
    grown = list(live)[: len(parts.variables)]
    while True:
        dependent = {
            variable.ref()
            for variable, depends in zip(parts.variables, grown, strict=True)
            if depends
        }
        for inner in parts.operations:
            if any(value.ref() in dependent for value in inner.inputs):
                dependent.update(
                    output.ref() for output in inner.outputs if fallback.carries_tangents(output)
                )
        now = [
            depends or result.ref() in dependent
            for depends, result in zip(grown, parts.results, strict=True)
        ]
        if now == grown:
            return grown
        grown = now
