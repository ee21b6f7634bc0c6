"""The derivative of a traced function at a point, as a linear map and its transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from custom_op import fallback, registry, structures

Structure = Any


def linearize(
    function: Callable[[Structure], Structure],
    primals: Structure,
    *,
    unconnected: str = "error",
) -> Linearization:
    """Linearizes a function: the forward pass runs once, any number of products follow.

    Inside a `tf.function` everything becomes part of the function's graph: products may stand in
    a `tf.while_loop`, are differentiable to any order, and compile with XLA. Called eagerly, the
    function is traced at each call, so put the work around it into a `tf.function` where speed
    matters. Batch sizes should be static: with an unknown one a transposed product computes a
    tangent only to read its shape.

    Args:
      function: Takes one structure of floating tensors and returns another. What else it needs it
        closes over.
      primals: The point: a structure of floating tensors.
      unconnected: What to do with a leaf of `primals` that no output depends on: `"error"`, or
        `"zero"` for zero derivatives.

    Returns:
      A `Linearization` with `.outputs`, `.jvp(tangents)` and `.vjp(cotangents)`.

    Raises:
      ValueError: If a leaf is unconnected and `unconnected` is `"error"`.
      TypeError: If a leaf of primals or outputs is not floating.
      NotDifferentiableError: From a product, when an operation has no derivative.
    """
    if unconnected not in ("error", "zero"):
        raise ValueError(f'Expected unconnected="error" or "zero", got {unconnected!r}.')
    flat = structures.flatten_floating(primals, "primals")
    if tf.executing_eagerly():
        return _EagerLinearization(function, primals, flat, unconnected)
    return _GraphLinearization(function, primals, flat, unconnected)


def jvp(
    function: Callable[[Structure], Structure], primals: Structure, tangents: Structure
) -> tuple[Structure, Structure]:
    """Returns a function's value and its Jacobian-vector product, by R-forward.

    Nests with itself and with `tf.GradientTape` to any order.

    Args:
      function: Takes one structure of floating tensors and returns another.
      primals: The point.
      tangents: The direction, of the structure, shapes and dtypes of `primals`.

    Returns:
      The outputs, and their tangents in the same structure.

    Raises:
      ValueError: If the tangents have another structure or other shapes than the primals.
      TypeError: If a dtype differs or is not floating.
      NotDifferentiableError: If no tangent passes an operation.
    """
    linearization = linearize(function, primals, unconnected="zero")
    return linearization.outputs, linearization.jvp(tangents)


class Linearization:
    """A function's value at a point and its derivative there.

    Attributes:
      outputs: The function's value.
    """

    outputs: Structure

    def __init__(self, primals: Structure, flat_primals: list[tf.Tensor]):
        self._primals = primals
        self._flat_primals = flat_primals
        self._flat_outputs: list[tf.Tensor] = []

    def jvp(self, tangents: Structure) -> Structure:
        """Returns J t, in the structure of the outputs.

        Args:
          tangents: A structure like the primals, of the same shapes and dtypes.

        Returns:
          The tangents of the outputs.

        Raises:
          ValueError: If structure or shapes differ from the primals'.
          TypeError: If a dtype differs.
        """
        flat = structures.flatten_like(tangents, self._primals, self._flat_primals, "tangents")
        return tf.nest.pack_sequence_as(self.outputs, self._push(flat))

    def vjp(self, cotangents: Structure) -> Structure:
        """Returns Jᵀ u, in the structure of the primals.

        Args:
          cotangents: A structure like the outputs, of the same shapes and dtypes.

        Returns:
          The cotangents of the primals.

        Raises:
          ValueError: If structure or shapes differ from the outputs'.
          TypeError: If a dtype differs.
        """
        flat = structures.flatten_like(cotangents, self.outputs, self._flat_outputs, "cotangents")
        return tf.nest.pack_sequence_as(self._primals, self._pull(flat))

    def _push(self, tangents: list[tf.Tensor]) -> list[tf.Tensor]:
        raise NotImplementedError

    def _pull(self, cotangents: list[tf.Tensor]) -> list[tf.Tensor]:
        raise NotImplementedError


class _GraphLinearization(Linearization):
    """Records the operations that lead from primals to outputs in the graph being traced."""

    def __init__(self, function, primals, flat_primals, unconnected):
        # An operation per primal that nothing else consumes: the derivative with respect to it
        # counts what the function does, and not other uses of the caller's tensor.
        flat_primals = [tf.identity(primal) for primal in flat_primals]
        super().__init__(primals, flat_primals)
        graph = tf.compat.v1.get_default_graph()
        first = len(graph.get_operations())
        self.outputs = function(tf.nest.pack_sequence_as(primals, flat_primals))
        self._flat_outputs = structures.flatten_floating(self.outputs, "outputs")
        self.outputs = tf.nest.pack_sequence_as(self.outputs, self._flat_outputs)
        operations, reached = _operations_between(
            flat_primals, self._flat_outputs, graph.get_operations()[first:]
        )
        if unconnected == "error":
            _check_connected(primals, flat_primals, reached)
        with tf.name_scope("linearize"):
            self._maps = [(op, _tangent_map(op)) for op in operations]
        self._transposed: dict[int, tuple[Any, list[tf.Tensor], list[tf.Tensor | None]]] = {}

    def _push(self, tangents):
        pushed = self._push_sparse(tangents)
        return [
            tf.zeros_like(output) if tangent is None else tangent
            for output, tangent in zip(self._flat_outputs, pushed, strict=True)
        ]

    def _push_sparse(self, tangents) -> list[tf.Tensor | None]:
        known = {
            primal.ref(): tangent
            for primal, tangent in zip(self._flat_primals, tangents, strict=True)
        }
        for op, tangent_map in self._maps:
            incoming = [known.get(value.ref()) for value in op.inputs]
            if all(tangent is None for tangent in incoming):
                continue
            outgoing = tangent_map(*incoming)
            if outgoing is None or tf.is_tensor(outgoing):
                outgoing = [outgoing]
            for output, tangent in zip(op.outputs, outgoing, strict=False):
                if tangent is not None:
                    known[output.ref()] = tangent
        return [known.get(output.ref()) for output in self._flat_outputs]

    def _pull(self, cotangents):
        # The transpose of the linear map: the gradient of <J t, u> with respect to t, at any t.
        # The tangents of a dummy t are traced once a graph; nothing computes them at run time.
        graph = tf.compat.v1.get_default_graph()
        if id(graph) not in self._transposed:
            with tf.name_scope("transpose"):
                dummies = [_dummy(primal) for primal in self._flat_primals]
                self._transposed[id(graph)] = (graph, dummies, self._push_sparse(dummies))
        _, dummies, pushed = self._transposed[id(graph)]
        pairs = [
            (tangent, u) for tangent, u in zip(pushed, cotangents, strict=True) if tangent is not None
        ]
        if not pairs:
            return [tf.zeros_like(primal) for primal in self._flat_primals]
        return tf.gradients(
            [tangent for tangent, _ in pairs],
            dummies,
            grad_ys=[u for _, u in pairs],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )


class _EagerLinearization(Linearization):
    """One trace, cut into three functions that hand each other the residuals."""

    def __init__(self, function, primals, flat_primals, unconnected):
        super().__init__(primals, flat_primals)
        traced: dict[str, Any] = {}

        @tf.function(autograph=False)
        def forward(*leaves):
            inner = _GraphLinearization(
                function, primals, [tf.convert_to_tensor(leaf) for leaf in leaves], unconnected
            )
            traced["outputs"] = tf.nest.map_structure(lambda _: None, inner.outputs)
            push = _trace(inner._push, inner._flat_primals)
            pull = _trace(inner._pull, inner._flat_outputs)
            residuals = {tensor.ref(): tensor for tensor in push.residuals + pull.residuals}
            order = {ref: i for i, ref in enumerate(residuals)}
            for name, cut in (("push", push), ("pull", pull)):
                traced[name] = (cut, [order[tensor.ref()] for tensor in cut.residuals])
            return inner._flat_outputs, list(residuals.values())

        self._flat_outputs, self._residuals = forward(*flat_primals)
        self.outputs = tf.nest.pack_sequence_as(traced["outputs"], self._flat_outputs)
        self._push_function, self._push_order = traced["push"]
        self._pull_function, self._pull_order = traced["pull"]

    def _push(self, tangents):
        return self._push_function(tangents, [self._residuals[i] for i in self._push_order])

    def _pull(self, cotangents):
        return self._pull_function(cotangents, [self._residuals[i] for i in self._pull_order])


class _trace:
    """A function traced inside a graph, callable outside it once its captures are supplied."""

    def __init__(self, function: Callable, like: Sequence[tf.Tensor]):
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in like]
        concrete = tf.function(
            lambda *leaves: function(list(leaves)), autograph=False
        ).get_concrete_function(*specs)
        # A resource stays what it is; only tensors have to be handed over.
        self.residuals = list(concrete.captured_inputs)
        self._definition = concrete.graph.as_graph_def()
        self._inputs = [tensor.name for tensor in concrete.inputs]
        self._outputs = [tensor.name for tensor in concrete.outputs]
        self._like = specs
        self._call: Any = None

    def _import(self, arguments, residuals):
        values = list(arguments) + list(residuals)
        return tf.graph_util.import_graph_def(
            self._definition,
            input_map=dict(zip(self._inputs, values, strict=True)),
            return_elements=self._outputs,
            name="",
        )

    def __call__(self, arguments, residuals):
        if self._call is None:
            kept = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in residuals]
            self._call = tf.function(self._import, autograph=False).get_concrete_function(
                self._like, kept
            )
        return self._call(list(arguments), list(residuals))


def _operations_between(
    primals: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor], candidates: Sequence[tf.Operation]
) -> tuple[list[tf.Operation], set[Any]]:
    """Returns the operations on a path from primals to outputs, and the tensors that count."""
    needed = {output.ref() for output in outputs}
    ancestors = []
    for op in reversed(candidates):
        if any(output.ref() in needed for output in op.outputs):
            ancestors.append(op)
            needed.update(value.ref() for value in op.inputs)
    dependent = {primal.ref() for primal in primals}
    operations = []
    for op in reversed(ancestors):
        if any(value.ref() in dependent for value in op.inputs):
            operations.append(op)
            dependent.update(output.ref() for output in op.outputs)
    return operations, needed


def _check_connected(primals, flat_primals, reached) -> None:
    loose = [
        name
        for name, primal in zip(structures.leaf_names(primals), flat_primals, strict=True)
        if primal.ref() not in reached
    ]
    if loose:
        raise ValueError(
            f"The outputs do not depend on {loose}. Does the function read a variable instead of "
            'the tensor it is given? Pass unconnected="zero" if zero derivatives are meant.'
        )


def _tangent_map(op: tf.Operation) -> registry.LinearMap:
    # A custom_gradient replaces an operation's derivative, so its rule does not apply.
    overridden = "_gradient_op_type" in op.node_def.attr
    rule = None if overridden else registry.find_rule(op.type)
    return fallback.double_vjp(op) if rule is None else rule(op)


def _dummy(like: tf.Tensor) -> tf.Tensor:
    if like.shape.is_fully_defined():
        return tf.zeros(like.shape, like.dtype)
    return tf.zeros_like(like)
