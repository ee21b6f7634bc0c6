"""Recomputing instead of storing, correct for derivatives of any order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from custom_op import structures
from custom_op import tensorflow_internals as internals
from custom_op.graphs import detours
from custom_op.graphs.copying import Copies
from custom_op.graphs.gradient_paths import Paths, refuse_missing
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, CHECKS, LOOPS
from custom_op.linear_maps import held_gradients
from custom_op.linear_maps.held_gradients import custom_gradient

Structure = Any
Run = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]

_HARMLESS = (*CHECKS, "PrintV2", "Placeholder", "ReadVariableOp", *CALLS, *LOOPS, *BRANCHES)


def checkpoint(function: Callable[..., Structure]) -> Callable[..., Structure]:
    """Returns a function whose gradient computes it again instead of storing intermediate values.

    Only what the function reads is stored between the two passes: its arguments, and the tensors
    it closes over (Griewank and Walther 2000, with one level). The gradient is made of
    differentiable operations and may be differentiated to any order, by tapes, `custom_op.jvp` and
    `custom_op.linearize`; `tf.recompute_grad` raises at the second order::

        block = custom_op.checkpoint(lambda x, w: tf.tanh(tf.tanh(x @ w) @ w))

    It works eagerly, in a `tf.function` and under XLA. The function is traced at each call, so
    put the work around it into a `tf.function` where speed matters.

    Args:
      function: A function from structures of tensors to a structure of floating tensors. Keyword
        arguments are passed on unchanged. It may read variables and floating tensors that it
        closes over; gradients reach these too.

    Returns:
      A function with the same arguments and results.

    Raises:
      TypeError: When called, if a result is not a floating tensor.
      ValueError: When called, if the function assigns a variable or draws random numbers that
        would differ the second time.
      NotDifferentiableError: When its gradient is taken, if TensorFlow has no gradient of an
        operation between the tensors it reads and its results.
    """

    @functools.wraps(function)
    @tf.autograph.experimental.do_not_convert
    def recomputing(*arguments: Structure, **settings: Any) -> Structure:
        run, inputs, outputs, check = _trace(function, arguments, settings)
        return tf.nest.pack_sequence_as(outputs, _recomputed(run, inputs, check))

    return recomputing


def _trace(
    function: Callable[..., Structure], arguments: Structure, settings: dict[str, Any]
) -> tuple[Run, list[tf.Tensor], Structure, Callable[[], None]]:
    """Traces a function for recomputation.

    Returns:
      A function of flat tensors, its arguments, the structure of its results, and a check that
      TensorFlow's gradient of the function is complete.
    """
    leaves = tf.nest.flatten(arguments)
    chosen = [i for i, leaf in enumerate(leaves) if _is_floating(leaf)]
    given = [tf.convert_to_tensor(leaves[i]) for i in chosen]
    found: dict[str, Structure] = {}

    def flat(*inputs: tf.Tensor) -> list[tf.Tensor]:
        current = list(leaves)
        for i, value in zip(chosen, inputs, strict=True):
            current[i] = value
        outputs = function(*tf.nest.pack_sequence_as(arguments, current), **settings)
        results = structures.flatten_floating(outputs, "results of a checkpointed function")
        found["outputs"] = tf.nest.map_structure(lambda _: None, outputs)
        return results

    specs = [tf.TensorSpec(value.shape, value.dtype) for value in given]
    concrete = tf.function(flat, autograph=False).get_concrete_function(*specs)
    graph = concrete.graph
    held_gradients.hold_all(graph)
    _check_repeatable(graph.get_operations())
    captured = list(concrete.captured_inputs)
    floating = [i for i, value in enumerate(captured) if value.dtype.is_floating]
    variables = [variable for variable in graph.variables if variable.dtype.is_floating]
    handles = [id(variable.handle) for variable in variables]
    inputs = [
        *given,
        *[captured[i] for i in floating],
        *[variable.read_value() for variable in variables],
    ]

    def inline(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        values, read = values[: len(inputs) - len(handles)], values[len(inputs) - len(handles) :]
        filled = [*values[: len(given)], *captured]
        for i, value in zip(floating, values[len(given) :], strict=True):
            filled[len(given) + i] = value
        reads = dict(zip(handles, read, strict=True))
        copies = Copies(concrete.inputs, filled, check=_check_repeatable, reads=reads)
        return copies.compute(concrete.outputs)

    def check() -> None:
        sources = [value for value in graph.inputs if value.dtype.is_floating]
        reads = [op.outputs[0] for op in graph.get_operations() if op.type == "ReadVariableOp"]
        sources += [value for value in reads if value.dtype.is_floating]
        names = ["its arguments"] * len(sources)
        refuse_missing(Paths(sources, graph.outputs), names, "a checkpointed function")
        detours.check(sources, graph.outputs)

    if not tf.executing_eagerly():
        return inline, inputs, found["outputs"], check
    specs = [tf.TensorSpec(value.shape, value.dtype) for value in inputs]
    whole = tf.function(lambda *values: inline(values), autograph=False)
    call = whole.get_concrete_function(*specs)
    return (lambda values: list(call(*values))), inputs, found["outputs"], check


def _recomputed(
    run: Run, inputs: Sequence[tf.Tensor], check: Callable[[], None]
) -> list[tf.Tensor]:
    @custom_gradient
    def recomputed(*inputs: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., list[tf.Tensor]]]:
        def pull(*cotangents: tf.Tensor) -> list[tf.Tensor]:
            check()
            again, seeds = _later(inputs, cotangents)
            with tf.GradientTape() as tape:
                tape.watch(again)
                values = run(again)
            return tape.gradient(
                values, again, output_gradients=seeds, unconnected_gradients="zero"
            )

        return run(inputs), pull

    results = recomputed(*inputs)
    return list(results) if isinstance(results, (list, tuple)) else [results]


def _later(
    inputs: Sequence[tf.Tensor], cotangents: Sequence[tf.Tensor]
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Delays the inputs until the cotangents have been computed.

    Otherwise TensorFlow's optimizer would see the same operations on the same inputs, and keep the
    results of the forward pass.

    Returns:
      The inputs and the cotangents.
    """
    if internals.is_compiled():
        held = _hold(*inputs, *cotangents)
        return list(held[: len(inputs)]), list(held[len(inputs) :])
    with tf.control_dependencies(cotangents):
        return [tf.identity(value) for value in inputs], list(cotangents)


@custom_gradient
def _hold(*values: tf.Tensor) -> Any:
    return gen_xla_ops.xla_optimization_barrier(values), lambda *cotangents: cotangents


def _check_repeatable(operations: Sequence[tf.Operation]) -> None:
    for op in operations:
        if op.op_def.is_stateful and op.type not in _HARMLESS:
            raise ValueError(
                f"Expected a function that computes the same again, got one with the operation "
                f"{op.type!r} (named {op.name!r}), which has a state; draw random numbers by "
                "tf.random.stateless_* from a seed that is passed in, and assign outside."
            )


def _is_floating(leaf: Any) -> bool:
    if tf.is_tensor(leaf) or isinstance(leaf, tf.Variable):
        return leaf.dtype.is_floating
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, float) or getattr(dtype, "kind", None) == "f"
