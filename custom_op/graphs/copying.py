"""Copies of traced operations in the current graph, with the graphs that calls and loops hold."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import registry
from custom_op import tensorflow_internals as internals
from custom_op.graphs.inner_graphs import (
    BRANCHES,
    CALLS,
    LOOPS,
    ancestors,
    branch_graphs,
    called_graph,
    graphs_around,
    inside,
    loop_graph,
    source,
)
from custom_op.linear_maps import held_gradients
from custom_op.rules import moments

_overrides = itertools.count()


class Copies:
    """Computes tensors of a traced graph in another graph, from values of the graph's inputs.

    Operations are copied as they are wanted, each once. Calls are written out, and loops and
    branches built anew, so that tapes, `tf.gradients` and R-forward find in a copy what they find
    in the original. What a `tf.custom_gradient` computes backward is traced where it belongs, in
    the graph of the original, and copied from there.
    """

    def __init__(
        self,
        inputs: Sequence[tf.Tensor],
        values: Sequence[tf.Tensor],
        check: Callable[[Sequence[tf.Operation]], None] | None = None,
        reads: Mapping[int, tf.Tensor] | None = None,
    ):
        """Creates the copies of nothing yet.

        Args:
          inputs: Tensors of the traced graph.
          values: What they are, a tensor for each.
          check: Called with the operations that are about to be copied; raises if one may not be.
          reads: What reading a variable gives, by the `id` of its handle, for those that are not
            to be read again.
        """
        self._known = {inner.ref(): outer for inner, outer in zip(inputs, values, strict=True)}
        self._check = check
        self._reads = reads or {}
        self._make = functools.partial(Copies, check=check, reads=reads)

    def compute(self, wanted: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the values of tensors of the traced graph, in the current graph."""
        making = ancestors(wanted, self._known)
        if self._check is not None:
            self._check(making)
        for inner in making:
            values = [self._known[value.ref()] for value in inner.inputs]
            for output, copy in zip(inner.outputs, self._copy(inner, values), strict=True):
                self._known[output.ref()] = copy
        return [self._known[tensor.ref()] for tensor in wanted]

    def compute_from(self, graph: Any, wanted: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the values of tensors of one graph or of those around it.

        Args:
          graph: The traced graph.
          wanted: Its tensors, and some of graphs that it is nested in. The copies stand in those
            too, as a rule, and read such a tensor there, as the original does.

        Returns:
          The values, in the current graph.
        """
        around = graphs_around(tf.compat.v1.get_default_graph())
        for tensor in wanted:
            outside = getattr(tensor, "graph", graph) is not graph
            if outside and any(tensor.graph is outer for outer in around):
                self._known.setdefault(tensor.ref(), tensor)
        return self.compute(wanted)

    def _copy(self, inner: tf.Operation, values: list[tf.Tensor]) -> Sequence[tf.Tensor]:
        if inner.type in CALLS:
            # Not the call itself: no tape could look into a copy of it.
            body = called_graph(inner)
            return self._make(body.inputs, values).compute(body.outputs[: len(inner.outputs)])
        if inner.type in LOOPS:
            return Loop(inner).run(values, make=self._make)
        if inner.type in BRANCHES:
            return Branches(inner).run(values, make=self._make)
        if moments.is_stopped_mean(inner):
            # The mean of `tf.nn.moments`, stopped inside the variance, moves at second order.
            return [tf.identity(values[0])]
        if inner.type == "ReadVariableOp" and id(values[0]) in self._reads:
            return [self._reads[id(values[0])]]
        if registry.has_custom_gradient(inner):
            return registry.replay(inner, values, gradient=self._gradient_of(inner))
        return registry.replay(inner, values)

    def _gradient_of(self, inner: tf.Operation) -> str:
        """Registers, under a new name, the custom gradient of an operation for its copy."""
        known = dict(self._known)

        def gradient(_, *upstream):
            given = [i for i, u in enumerate(upstream) if u is not None]

            def pull(leaves):
                seeds: list[tf.Tensor | None] = [None] * len(upstream)
                for i, leaf in zip(given, leaves, strict=True):
                    seeds[i] = leaf
                stated = internals.gradient_function(inner)
                assert stated is not None  # a tf.custom_gradient registers a function
                pulled = stated(inner, *seeds)
                pulled = pulled if isinstance(pulled, (list, tuple)) else [pulled]
                return [None if u is None else tf.convert_to_tensor(u) for u in pulled]

            seeds = [upstream[i] for i in given]
            with inner.graph.as_default():
                traced = Traced(pull, seeds)
            copies = Copies([], [])
            copies._known = dict(known)
            residuals = [inside(tensor, inner.graph) for tensor in traced.residuals]
            return traced.inline(seeds, copies.compute_from(inner.graph, residuals))

        name = f"CopiedCustomGradient{next(_overrides)}"
        tf.RegisterGradient(name)(gradient)
        held_gradients.hold(tf.compat.v1.get_default_graph(), name)
        return name


class Loop:
    """The parts of a `while` operation, as they are when this is made.

    TensorFlow's gradient of a loop appends variables to it, in place.

    Attributes:
      op: The operation.
      variables: The tensors of the body's graph that hold the loop's variables.
      results: The tensors of the body's graph that become the next variables.
      moving: Which variables the body changes.
    """

    def __init__(self, op: tf.Operation):
        self.op = op
        count = len(op.outputs)
        cond, body = (loop_graph(op, name) for name in ("cond", "body"))
        self._tested, self._test = list(cond.inputs)[:count], cond.outputs[0]
        self.variables, self.results = list(body.inputs)[:count], list(body.outputs)[:count]
        self.operations = body.get_operations()
        self.moving = [
            source(result) is not variable
            for variable, result in zip(self.variables, self.results, strict=True)
        ]

    def run(
        self,
        values: Sequence[tf.Tensor],
        carried: Sequence[tf.Tensor] = (),
        step: Callable[[Copies, Sequence[tf.Tensor]], Sequence[tf.Tensor]] | None = None,
        make: Callable[..., Copies] = Copies,
    ) -> list[tf.Tensor]:
        """Builds the loop anew.

        Args:
          values: The variables at the start, one each.
          carried: Further variables at the start.
          step: From the copies of the body and the further variables to their next values.
          make: Makes `Copies`.

        Returns:
          The variables at the end, then the further ones.
        """
        moving = [i for i, moves in enumerate(self.moving) if moves]
        shapes = [self.variables[i].shape for i in moving]
        extra_shapes = [tensor.shape for tensor in carried]

        def filled(changing):
            current = list(values)
            for i, value in zip(moving, changing, strict=True):
                value.set_shape(self.variables[i].shape)
                current[i] = value
            return current

        def condition(changing, _):
            return make(self._tested, filled(changing)).compute([self._test])[0]

        def body(changing, further):
            copies = make(self.variables, filled(changing))
            following = copies.compute([self.results[i] for i in moving])
            return following, list(step(copies, further)) if step else []

        end, further = tf.while_loop(
            condition,
            body,
            ([values[i] for i in moving], list(carried)),
            shape_invariants=(shapes, extra_shapes),
            parallel_iterations=self.op.get_attr("parallel_iterations"),
            maximum_iterations=self.maximum_iterations(values),
            name="loop",
        )
        outputs = list(values)
        for i, value in zip(moving, end, strict=True):
            outputs[i] = value
        return outputs + list(further)

    def maximum_iterations(self, values: Sequence[tf.Tensor]) -> int | None:
        """Returns the bound that `tf.while_loop` was given, if it is known now."""
        # It passes a counter and the bound, -1 for none, before the variables of its own. The
        # loop's condition tests the bound too; it is for XLA, which sizes lists by it.
        if "_num_original_outputs" not in self.op.node_def.attr or self.moving[1]:
            return None
        bound = tf.get_static_value(values[1])
        return None if bound is None or bound < 0 else int(bound)


class Branches:
    """The parts of an `if` or a `case` operation, as they are when this is made.

    Attributes:
      op: The operation.
      inputs: For each branch, the tensors of its graph that hold the operation's further inputs.
      outputs: For each branch, the tensors of its graph that become the outputs.
      operations: For each branch, its graph's operations.
    """

    def __init__(self, op: tf.Operation):
        self.op = op
        graphs = branch_graphs(op)
        self.inputs = [list(graph.inputs)[: len(op.inputs) - 1] for graph in graphs]
        self.outputs = [list(graph.outputs)[: len(op.outputs)] for graph in graphs]
        self.operations = [graph.get_operations() for graph in graphs]

    def run(
        self,
        values: Sequence[tf.Tensor],
        results: Callable[[int, Copies], Sequence[tf.Tensor]] | None = None,
        make: Callable[..., Copies] = Copies,
    ) -> list[tf.Tensor]:
        """Builds the choice anew.

        Args:
          values: The inputs of the operation, the choice first.
          results: From a branch's number and its copies to what it returns; by default what the
            original's branch does.
          make: Makes `Copies`.

        Returns:
          What the branch that is taken returns.
        """

        def branch(i):
            def taken():
                copies = make(self.inputs[i], values[1:])
                return list(results(i, copies) if results else copies.compute(self.outputs[i]))

            return taken

        taken = [branch(i) for i in range(len(self.inputs))]
        if self.op.type.endswith("If"):
            return tf.cond(values[0], taken[0], taken[1], name="branches")
        return tf.switch_case(values[0], taken, name="branches")


class Traced:
    """A function traced inside a graph, callable outside it once its captures are supplied.

    Attributes:
      residuals: The tensors of the graph around it that it reads, in order.
      outputs: Which of the function's results are tensors, and not None.
    """

    def __init__(self, function: Callable[..., Any], like: Sequence[tf.Tensor]):
        self._like = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in like]
        self.outputs: list[bool] = []

        def flat(*leaves):
            results = function(list(leaves))
            self.outputs = [result is not None for result in results]
            return [result for result in results if result is not None]

        # Kept: what it was traced into ends with it.
        self._concrete = tf.function(flat, autograph=False).get_concrete_function(*self._like)
        # A resource stays what it is; only tensors have to be handed over.
        captured = self._concrete.captured_inputs
        # Sizes and places stay constants: kernels and gradients of lists read them while traced.
        self._constants = [_whole_numbers(tensor) for tensor in captured]
        self.residuals = [
            tensor
            for tensor, constant in zip(captured, self._constants, strict=True)
            if constant is None
        ]
        self._call: Any = None

    def inline(
        self, arguments: Sequence[tf.Tensor], residuals: Sequence[tf.Tensor]
    ) -> list[tf.Tensor | None]:
        """Copies the traced operations into the current graph and returns the results."""
        graph = tf.compat.v1.get_default_graph()
        handed = iter(residuals)
        captured = [
            next(handed) if constant is None else tf.constant(constant)
            for constant in self._constants
        ]
        values = [
            # An identity brings what belongs to an outer graph into this one.
            value if getattr(value, "graph", None) is graph else tf.identity(value)
            for value in (*arguments, *captured)
        ]
        with tf.name_scope("traced"):
            copies = Copies(self._concrete.inputs, values)
            tensors = iter(copies.compute(self._concrete.outputs))
        return [next(tensors) if there else None for there in self.outputs]

    def __call__(
        self, arguments: Sequence[tf.Tensor], residuals: Sequence[tf.Tensor]
    ) -> list[tf.Tensor | None]:
        """Runs the function eagerly; it is built at the first call."""
        if self._call is None:
            # A size of unknown rank stays one: a list's operations take a scalar for -1 or refuse.
            kept = [
                tf.TensorSpec(None if like.shape.rank is None else tensor.shape, tensor.dtype)
                for tensor, like in zip(residuals, self.residuals, strict=True)
            ]
            self._call = tf.function(self.inline, autograph=False).get_concrete_function(
                self._like, kept
            )
        return self._call(list(arguments), list(residuals))


def _whole_numbers(tensor: tf.Tensor) -> np.ndarray | None:
    """Returns the value of a small constant of whole numbers, and None for all else."""
    size = tensor.shape.num_elements()
    if not tensor.dtype.is_integer or size is None or size > 16:
        return None
    return tf.get_static_value(tensor)
