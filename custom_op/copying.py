"""Copies of traced operations in the current graph, with the graphs that calls and loops hold."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util_v2

from custom_op import held_gradients, registry
from custom_op.rules import moments

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")

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
        around = _graphs_around(tf.compat.v1.get_default_graph())
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
            from custom_op.traced import Traced

            given = [i for i, u in enumerate(upstream) if u is not None]

            def pull(leaves):
                seeds: list[tf.Tensor | None] = [None] * len(upstream)
                for i, leaf in zip(given, leaves, strict=True):
                    seeds[i] = leaf
                pulled = ops.get_gradient_function(inner)(inner, *seeds)
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
        cond, body = (_loop_graph(op, name) for name in ("cond", "body"))
        self._tested, self._test = list(cond.inputs)[:count], cond.outputs[0]
        self.variables, self.results = list(body.inputs)[:count], list(body.outputs)[:count]
        self.operations = body.get_operations()
        self.moving = [
            _source(result) is not variable
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
        graphs = _branch_graphs(op)
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


def ancestors(wanted: Sequence[tf.Tensor], known: Container[Any] = ()) -> list[tf.Operation]:
    """Returns the operations that tensors depend on, each after those that it reads.

    Args:
      wanted: Tensors of one graph.
      known: References of tensors beyond which nothing is looked for.

    Returns:
      Operations in an order in which they can run. It need not be the order of their creation:
      the gradient of a loop gives the loop inputs that are newer than itself.
    """
    found: dict[tf.Operation, None] = {}
    entered = set()
    stack = [tensor.op for tensor in reversed(wanted) if tensor.ref() not in known]
    while stack:
        op = stack[-1]
        if op in found:
            stack.pop()
        elif op in entered:
            found[stack.pop()] = None
        else:
            entered.add(op)
            reads = [value.op for value in op.inputs if value.ref() not in known]
            stack.extend(read for read in reversed(reads) if read not in entered)
    return list(found)


def called_graph(op: tf.Operation) -> Any:
    """Returns the graph of the function that an operation calls."""
    name = op.get_attr("f").name
    graph = op.graph
    while graph is not None:
        function = graph._get_function(name)
        if function is not None and getattr(function, "graph", None) is not None:
            return function.graph
        graph = getattr(graph, "outer_graph", None)
    return control_flow_util_v2.get_func_graph(op, [value.shape for value in op.inputs], name)


def _loop_graph(op: tf.Operation, name: str) -> Any:
    graph = getattr(op, f"_{name}_graph", None)
    if graph is not None:
        return graph
    shapes = [tf.TensorShape(shape) for shape in op.get_attr("output_shapes")]
    return control_flow_util_v2.get_func_graph(op, shapes, op.get_attr(name).name)


def _branch_graphs(op: tf.Operation) -> list[Any]:
    if op.type.endswith("If"):
        named = [("_true_graph", op.get_attr("then_branch"))]
        named.append(("_false_graph", op.get_attr("else_branch")))
    else:
        named = [(f"_branch_graph_{i}", f) for i, f in enumerate(op.get_attr("branches"))]
    shapes = [value.shape for value in list(op.inputs)[1:]]
    return [
        getattr(op, attribute, None) or control_flow_util_v2.get_func_graph(op, shapes, f.name)
        for attribute, f in named
    ]


def inside(tensor: tf.Tensor, graph: Any) -> tf.Tensor:
    """The tensor that stands in a graph for one of a graph around it, where it has been captured.

    What a custom gradient reads of an outer graph is captured from there, past the graph of the
    operation whose gradient it is.
    """
    for outer, inner in graph.captures:
        if outer is tensor:
            return inner
    return tensor


def _graphs_around(graph: Any) -> list[Any]:
    """The graphs that a graph is nested in, the innermost first."""
    around = []
    while (graph := getattr(graph, "outer_graph", None)) is not None:
        around.append(graph)
    return around


def _source(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor that a chain of identities begins with."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor
