"""Copies of traced operations in the current graph, including the graphs of calls and loops."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
from custom_op.graphs.static_values import whole_numbers
from custom_op.linear_maps import held_gradients
from custom_op.rules import moments

_overrides = itertools.count()


class Copies:
    """Computes tensors of a traced graph in another graph, from values of the graph's inputs.

    Operations are copied on demand, each once. Calls are written out, and loops and branches built
    anew, so that tapes, `tf.gradients` and R-forward find the same in a copy as in the original.
    The backward pass of a `tf.custom_gradient` is traced where it belongs, in the graph of the
    original, and copied from there.
    """

    def __init__(
        self,
        inputs: Sequence[tf.Tensor],
        values: Sequence[tf.Tensor],
        check: Callable[[Sequence[tf.Operation]], None] | None = None,
        reads: Mapping[int, tf.Tensor] | None = None,
    ) -> None:
        """Prepares to copy; nothing is copied yet.

        Args:
          inputs: Tensors of the traced graph.
          values: Their values, a tensor for each.
          check: A function that is called with the operations about to be copied; it raises if one
            must not be.
          reads: The values of variables that must not be read again, by the `id` of their handles.
        """
        self._known = {inner.ref(): outer for inner, outer in zip(inputs, values, strict=True)}
        self._check = check
        self._reads = reads or {}
        self._make: Callable[..., Copies] = functools.partial(Copies, check=check, reads=reads)

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
        """Returns the values of tensors of a graph or of the graphs around it.

        Args:
          graph: The traced graph.
          wanted: Its tensors, and some of graphs that it is nested in. Copies usually stand in
            those too, and read such a tensor there, as the original does.

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
            # The mean of `tf.nn.moments`, stopped inside the variance, matters at second order.
            return [tf.identity(values[0])]
        if inner.type == "ReadVariableOp" and id(values[0]) in self._reads:
            return [self._reads[id(values[0])]]
        if registry.has_custom_gradient(inner):
            return registry.replay(inner, values, gradient=self._gradient_of(inner))
        if len(inner.outputs) == 1 and (known := whole_numbers(inner.outputs[0])) is not None:
            # XLA has to know orders and axes. Gradients of branches hand on what the branch
            # computed, even of constants alone, as values; except constants.
            return [tf.constant(known, inner.outputs[0].dtype)]
        return registry.replay(inner, values)

    def _gradient_of(self, inner: tf.Operation) -> str:
        """Registers an operation's custom gradient for its copy, under a new name."""
        known = dict(self._known)

        def gradient(_: tf.Operation, *upstream: tf.Tensor | None) -> list[tf.Tensor | None]:
            given = [i for i, u in enumerate(upstream) if u is not None]

            def pull(leaves: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
                seeds: list[tf.Tensor | None] = [None] * len(upstream)
                for i, leaf in zip(given, leaves, strict=True):
                    seeds[i] = leaf
                stated = internals.gradient_function(inner)
                assert stated is not None  # a tf.custom_gradient registers a function
                pulled = stated(inner, *seeds)
                pulled = pulled if isinstance(pulled, (list, tuple)) else [pulled]
                return [None if u is None else tf.convert_to_tensor(u) for u in pulled]

            # The gradient of a gather is an IndexedSlices.
            seeds = [tf.convert_to_tensor(upstream[i]) for i in given]
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
    """The parts of a `while` operation at the time of construction.

    TensorFlow's gradient of a loop later appends variables to it, in place.

    Attributes:
      op: The operation.
      variables: The tensors of the body's graph that hold the loop's variables.
      results: The tensors of the body's graph that become the next variables.
      moving: Which variables the body changes.
    """

    def __init__(self, op: tf.Operation) -> None:
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
          values: The initial values of the variables.
          carried: The initial values of further variables.
          step: A function from the copies of the body and the further variables to the next values
            of the latter.
          make: The maker of `Copies`.

        Returns:
          The final values of the variables, then of the further ones.
        """
        moving = [i for i, moves in enumerate(self.moving) if moves]
        shapes = [self.variables[i].shape for i in moving]
        extra_shapes = [tensor.shape for tensor in carried]

        def filled(changing: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            current = list(values)
            for i, value in zip(moving, changing, strict=True):
                value.set_shape(self.variables[i].shape)
                current[i] = value
            return current

        def condition(changing: Sequence[tf.Tensor], _: Sequence[tf.Tensor]) -> tf.Tensor:
            return make(self._tested, filled(changing)).compute([self._test])[0]

        def body(
            changing: Sequence[tf.Tensor], further: Sequence[tf.Tensor]
        ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
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
        """Returns the bound that `tf.while_loop` was given, if it is known statically."""
        # The bound is -1 for none. The loop's condition tests it too; XLA needs it to size lists.
        if not internals.counts_iterations(self.op) or self.moving[1]:
            return None
        bound = tf.get_static_value(values[1])
        return None if bound is None or bound < 0 else int(bound)


class Branches:
    """The parts of an `if` or a `case` operation at the time of construction.

    Attributes:
      op: The operation.
      inputs: For each branch, the tensors of its graph that hold the operation's other inputs.
      outputs: For each branch, the tensors of its graph that become the outputs.
      operations: For each branch, its graph's operations.
    """

    def __init__(self, op: tf.Operation) -> None:
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
          results: A function from a branch's number and its copies to its results; by default
            those of the original's branch.
          make: The maker of `Copies`.

        Returns:
          The results of the branch that is taken.
        """

        def branch(i: int) -> Callable[[], list[tf.Tensor]]:
            def taken() -> list[tf.Tensor]:
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
      residuals: The tensors of the surrounding graph that it reads, in order.
      outputs: For each result of the function, whether it is a tensor and not None.
    """

    def __init__(self, function: Callable[..., Any], like: Sequence[tf.Tensor]) -> None:
        self._like = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in like]
        self.outputs: list[bool] = []

        def flat(*leaves: tf.Tensor) -> list[tf.Tensor]:
            results = function(list(leaves))
            self.outputs = [result is not None for result in results]
            return [result for result in results if result is not None]

        # Kept, because its graph is deleted with it.
        self._concrete = tf.function(flat, autograph=False).get_concrete_function(*self._like)
        # Resources are captured as they are; only tensors must be passed.
        captured = self._concrete.captured_inputs
        # Sizes and indices stay constants: gradients of lists read them while tracing.
        self._constants = [whole_numbers(tensor) for tensor in captured]
        self.residuals = [
            tensor
            for tensor, constant in zip(captured, self._constants, strict=True)
            if constant is None
        ]
        self._call: Any = None

    def operations(self) -> list[tf.Operation]:
        """Returns the traced operations that results depend on."""
        return ancestors(self._concrete.outputs)

    def floating_reads(self) -> list[tf.TensorShape]:
        """Returns the shapes of the floating tensors that it takes and reads."""
        return [tensor.shape for tensor in self._concrete.inputs if tensor.dtype.is_floating]

    def inline(
        self,
        arguments: Sequence[Any],
        residuals: Sequence[tf.Tensor],
        make: Callable[..., Copies] = Copies,
    ) -> list[Any]:
        """Copies the traced operations into the current graph.

        Args:
          arguments: The function's arguments, or what `make` takes in their place.
          residuals: The values of the residuals.
          make: The maker of `Copies`.

        Returns:
          The results; None for one that is None.
        """
        graph = tf.compat.v1.get_default_graph()
        handed = iter(residuals)
        captured = [
            next(handed) if constant is None else tf.constant(constant)
            for constant in self._constants
        ]
        values = [
            # An identity brings a tensor of an outer graph into this one.
            tf.identity(value)
            if tf.is_tensor(value) and getattr(value, "graph", None) is not graph
            else value
            for value in (*arguments, *captured)
        ]
        with tf.name_scope("traced"):
            copies = make(self._concrete.inputs, values)
            tensors = iter(copies.compute(self._concrete.outputs))
        return [next(tensors) if there else None for there in self.outputs]

    def __call__(
        self, arguments: Sequence[tf.Tensor], residuals: Sequence[tf.Tensor]
    ) -> list[tf.Tensor | None]:
        """Runs the function eagerly; the first call builds it."""
        if self._call is None:
            # Unknown ranks stay unknown: a list's operations take a scalar for -1 or refuse it.
            specs = [
                tf.TensorSpec(None if like.shape.rank is None else tensor.shape, tensor.dtype)
                for tensor, like in zip(residuals, self.residuals, strict=True)
            ]

            def call(
                arguments: list[tf.Tensor], residuals: list[tf.Tensor]
            ) -> list[tf.Tensor | None]:
                return self.inline(arguments, residuals)

            self._call = tf.function(call, autograph=False).get_concrete_function(self._like, specs)
        return self._call(list(arguments), list(residuals))
