"""Finds the variables that a traced function reads, and whether it also got one as an argument.

The derivative of a function that reads `w` itself, besides the value of `w` it is given, silently
lacks a path. A variable is identified by its resource handle, through calls, loops and branches.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from custom_op import fallback, structures
from custom_op import tensorflow_internals as internals
from custom_op.graphs.copying import Branches, Loop
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, LOOPS, called_graph
from custom_op.registry import has_custom_gradient
from custom_op.rules import moments

Structure = Any


class Read(NamedTuple):
    """A variable that is read.

    Attributes:
      name: The variable's name, for messages.
      handle: Its resource handle: eager if the variable was made eagerly.
    """

    name: str
    handle: tf.Tensor


def variables_read(
    outputs: Sequence[tf.Tensor], operations: Collection[tf.Operation] | None = None
) -> list[Read]:
    """Returns the variables whose values outputs depend on by differentiable operations.

    Variables that are read only behind `tf.stop_gradient`, or for an integer (a choice, a shape),
    have no part in a derivative and do not count.

    Args:
      outputs: Tensors of one graph, such as a `FuncGraph` that is being traced.
      operations: The operations to search; tensors from elsewhere were computed before, and are
        constants. By default the whole graph.

    Returns:
      Each variable once.
    """
    if operations is None:
        operations = outputs[0].graph.get_operations()
    found: dict[int, Read] = {}
    if not any(value.dtype == tf.resource for op in operations for value in op.inputs):
        return []
    for tensor in _resources(outputs, set(operations)):
        handle = outermost(tensor)
        found.setdefault(id(handle), Read(_name(handle, tensor), handle))
    return list(found.values())


class Sources:
    """The variables that the leaves of a structure were read from, as far as they can be known.

    They are known for leaves that are variables of TensorFlow or Keras, for tensors that were read
    from one in the graph being traced, and, on a CPU, for eager tensors other than scalars that
    still share their memory with one (`tf.convert_to_tensor(variable)`,
    `mlhf.get_parameters(model)`). They are unknown for arguments of a `tf.function` and for copies.
    """

    def __init__(self, structure: Structure, leaves: Sequence[tf.Tensor]) -> None:
        """Finds out where leaves come from.

        Args:
          structure: A structure of variables and tensors.
          leaves: The same, as flat tensors.
        """
        self._names = structures.leaf_names(structure)
        self._leaves = list(leaves)
        self._handles = [
            _handle_of(leaf) if _handle_of(leaf) is not None else _handle_read(tensor)
            for leaf, tensor in zip(tf.nest.flatten(structure), leaves, strict=True)
        ]

    def also_read(self, reads: Sequence[Read]) -> list[tuple[str, str]]:
        """Returns the leaves whose variable is among those read: (leaf, variable)."""
        return [
            (name, read.name)
            for name, leaf, handle in zip(self._names, self._leaves, self._handles, strict=True)
            for read in reads
            if _is_of(leaf, handle, read)
        ]

    def check(self, reads: Sequence[Read], leaves: Collection[str] | None = None) -> None:
        """Checks that no variable is read whose value is a leaf.

        Args:
          reads: The result of `variables_read`.
          leaves: The names of the leaves that matter; by default all.

        Raises:
          ValueError: If such a variable is read; it names both.
        """
        for leaf, variable in self.also_read(reads):
            if leaves is None or leaf in leaves:
                raise ValueError(
                    f"The function reads the variable {variable!r} itself, whose value it is given "
                    f"as {leaf!r}: the derivative would leave that path out. Use what the function "
                    "is given in all places; or, where the variable is meant as a constant, wrap "
                    "what is read in tf.stop_gradient."
                )


def _is_of(leaf: tf.Tensor, handle: tf.Tensor | None, read: Read) -> bool:
    return read.handle is handle or (handle is None and _shares_memory(leaf, read.handle))


def _resources(
    outputs: Sequence[tf.Tensor], operations: Collection[tf.Operation] | None
) -> list[tf.Tensor]:
    """Returns the handles, in the outputs' graph, of the resources that they read."""
    found: list[tf.Tensor] = []
    seen: set[tf.Operation] = set()
    stack = [tensor.op for tensor in outputs if fallback.carries_tangents(tensor)]
    while stack:
        op = stack.pop()
        if op in seen or (operations is not None and op not in operations):
            continue
        seen.add(op)
        if op.type == "StopGradient" and not moments.is_stopped_mean(op):
            continue
        inputs = list(op.inputs)
        if has_custom_gradient(op):
            inputs = [inputs[i] for i in fallback.inputs_with_gradient(op)]
        stack += [value.op for value in inputs if fallback.carries_tangents(value)]
        if any(value.dtype == tf.resource for value in inputs):
            found += _handed_in(op, inputs)
    return found


def _handed_in(op: tf.Operation, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the handles that an operation, or functions that it calls, read."""
    if op.type in CALLS:
        body = called_graph(op)
        parts = [(body.inputs, body.outputs[: len(op.outputs)], inputs)]
    elif op.type in LOOPS:
        loop = Loop(op)
        parts = [(loop.variables, loop.results, inputs)]
    elif op.type in BRANCHES:
        branches = Branches(op)
        parts = [
            (inside, outputs, inputs[1:])
            for inside, outputs in zip(branches.inputs, branches.outputs, strict=True)
        ]
    else:
        return [value for value in inputs if value.dtype == tf.resource]
    found = []
    for inside, outputs, given in parts:
        handed = {inner.ref(): outer for inner, outer in zip(inside, given, strict=False)}
        read = _resources(outputs, None)
        found += [handed[tensor.ref()] for tensor in read if tensor.ref() in handed]
    return found


def outermost(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the outermost tensor that a tensor of a graph was captured from."""
    while not internals.is_eager(tensor):
        if tensor.op.type == "Identity":
            tensor = tensor.op.inputs[0]
            continue
        captures = getattr(tensor.graph, "captures", ())
        outer = next((given for given, inner in captures if inner is tensor), None)
        if outer is None:
            break
        tensor = outer
    return tensor


def _name(handle: tf.Tensor, inner: tf.Tensor) -> str:
    """Returns a variable's name, which an eager handle bears."""
    return (internals.name_of_handle(handle) or inner.op.name).partition(":")[0]


def _handle_of(leaf: Any) -> tf.Tensor | None:
    """Returns the handle of a variable of TensorFlow or Keras; None for anything else."""
    if not isinstance(leaf, tf.Variable):
        leaf = getattr(leaf, "value", None)
    return getattr(leaf, "handle", None) if isinstance(leaf, tf.Variable) else None


def _handle_read(tensor: tf.Tensor) -> tf.Tensor | None:
    """Returns the handle of the variable that a tensor of a graph was read from."""
    tensor = outermost(tensor)
    if internals.is_eager(tensor) or tensor.op.type != "ReadVariableOp":
        return None
    return outermost(tensor.op.inputs[0])


def _shares_memory(leaf: tf.Tensor, handle: tf.Tensor) -> bool:
    """Whether an eager tensor is the current value of a variable, not a copy."""
    leaf = outermost(leaf)
    if leaf.shape.rank == 0:
        # TensorFlow caches scalar constants: unrelated equal scalars share their memory.
        return False
    if not (internals.is_eager(leaf) and internals.is_eager(handle)):
        return False
    if not all("CPU" in value.backing_device for value in (leaf, handle)):
        # Another device's memory is only visible as a copy.
        return False
    with tf.init_scope():
        try:
            value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=leaf.dtype)
        except tf.errors.OpError:
            return False  # of another dtype, or not a single variable
        return value.shape == leaf.shape and _address(value) == _address(leaf)


def _address(tensor: tf.Tensor) -> int:
    return np.asarray(memoryview(tensor)).__array_interface__["data"][0]
