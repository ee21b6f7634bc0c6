"""The derivative of a traced function at a point, as a linear map and its transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op import determinism, structures
from custom_op.fallback import NotDifferentiableError, check_no_silent_zero
from custom_op.graphs import control_flow, detours, random_choices
from custom_op.graphs.captured_variables import Sources, variables_read
from custom_op.graphs.copying import Traced
from custom_op.linear_maps import held_gradients, paired, precision
from custom_op.program import TangentProgram

Structure = Any


@tf.autograph.experimental.do_not_convert
def linearize(
    function: Callable[[Structure], Structure],
    primals: Structure,
    *,
    unconnected: str = "error",
    product_dtype: Any = None,
) -> Linearization:
    """Linearizes a function: after one forward pass, any number of products can be computed.

    Inside a `tf.function` everything becomes part of the function's graph: products may stand in
    a `tf.while_loop`, are differentiable to any order, and compile with XLA. Called eagerly, the
    function is traced at each call, so put the work around it into a `tf.function` where speed
    matters. Batch sizes should be static: if they are unknown, a transposed product computes a
    tangent only to read its shape.

    Args:
      function: A function from one structure of floating tensors to another; it closes over
        anything else it needs. It is called as it is: autograph does not convert a function
        defined elsewhere.
      primals: The point: a structure of floating tensors.
      unconnected: The treatment of a leaf of `primals` that no output depends on: `"error"`, or
        `"zero"` for zero derivatives.
      product_dtype: The dtype of products: `"bfloat16"` rounds the operands of float32
        convolutions and matrix products of tangents and cotangents to bfloat16 and sums in
        float32: faster on processors with such instructions, with errors of up to 1% of a
        product's norm. Outputs keep their precision.

    Returns:
      A `Linearization` with `.outputs`, `.jvp(tangents)` and `.vjp(cotangents)`.

    Raises:
      ValueError: If a leaf is unconnected and `unconnected` is `"error"`, the function reads the
        variable that a leaf was read from (where that can be known: see
        `custom_op.graphs.captured_variables.Sources`), or the product's dtype is unknown.
      TypeError: If a leaf of primals or outputs is not floating.
      NotDifferentiableError: When an operation has no derivative; inside a `tf.function` the first
        product may raise it instead.
    """
    if unconnected not in ("error", "zero"):
        raise ValueError(f'Expected unconnected="error" or "zero", got {unconnected!r}.')
    return _linearize(function, primals, unconnected, precision.check(product_dtype))


def _linearize(
    function: Callable[[Structure], Structure],
    primals: Structure,
    unconnected: str | None,
    product_dtype: tf.DType | None = None,
) -> Linearization:
    """Linearizes; unconnected=None allows zeros, except for leaves whose variable is read."""
    flat = structures.flatten_floating(primals, "primals")
    sources = Sources(primals, flat)
    if tf.executing_eagerly():
        return _EagerLinearization(function, primals, flat, sources, unconnected, product_dtype)
    return _GraphLinearization(function, primals, flat, sources, unconnected, product_dtype)


@tf.autograph.experimental.do_not_convert
def jvp(
    function: Callable[[Structure], Structure], primals: Structure, tangents: Structure
) -> tuple[Structure, Structure]:
    """Returns a function's value and its Jacobian-vector product, by R-forward.

    Nests with itself and with `tf.GradientTape` to any order.

    Args:
      function: A function from one structure of floating tensors to another.
      primals: The point.
      tangents: The direction, with the structure, shapes and dtypes of `primals`.

    Returns:
      The outputs, and their tangents in the same structure.

    Raises:
      ValueError: If the tangents have another structure or other shapes than the primals, or the
        function reads the variable that a primal was read from.
      TypeError: If a dtype differs or is not floating.
      NotDifferentiableError: If no tangent passes an operation.
    """
    linearization = _linearize(function, primals, unconnected=None)
    return linearization.outputs, linearization.jvp(tangents)


class Linearization:
    """A function's value at a point and its derivative there.

    Attributes:
      outputs: The function's value.
      connected: For each leaf of the primals, whether an output depends on it.
    """

    outputs: Structure
    connected: list[bool]

    def __init__(self, primals: Structure, flat_primals: list[tf.Tensor]) -> None:
        self._primals = primals
        self._flat_primals = flat_primals
        self._flat_outputs: list[tf.Tensor] = []

    @tf.autograph.experimental.do_not_convert
    def jvp(self, tangents: Structure) -> Structure:
        """Returns J t, in the structure of the outputs.

        Args:
          tangents: A structure like the primals, with the same shapes and dtypes.

        Returns:
          The tangents of the outputs.

        Raises:
          ValueError: If structure or shapes differ from the primals'.
          TypeError: If a dtype differs.
        """
        flat = structures.flatten_like(tangents, self._primals, self._flat_primals, "tangents")
        return tf.nest.pack_sequence_as(self.outputs, self._push(flat))

    @tf.autograph.experimental.do_not_convert
    def vjp(self, cotangents: Structure) -> Structure:
        """Returns Jᵀ u, in the structure of the primals.

        Args:
          cotangents: A structure like the outputs, with the same shapes and dtypes.

        Returns:
          The cotangents of the primals.

        Raises:
          ValueError: If structure or shapes differ from the outputs'.
          TypeError: If a dtype differs.
        """
        flat = structures.flatten_like(cotangents, self.outputs, self._flat_outputs, "cotangents")
        return tf.nest.pack_sequence_as(self._primals, self._pull(flat))

    def check_deterministic(self) -> None:
        """Runs an eager function again, and raises ValueError if the results differ."""

    def _push(self, tangents: list[tf.Tensor]) -> list[tf.Tensor]:
        raise NotImplementedError

    def _pull(self, cotangents: list[tf.Tensor]) -> list[tf.Tensor]:
        raise NotImplementedError


class _GraphLinearization(Linearization):
    """Records the operations that lead from primals to outputs in the graph being traced."""

    def __init__(
        self,
        function: Callable[[Structure], Structure],
        primals: Structure,
        flat_primals: list[tf.Tensor],
        sources: Sources,
        unconnected: str | None,
        product_dtype: tf.DType | None,
    ) -> None:
        # One operation per primal that nothing else consumes: the derivative with respect to it
        # covers only the function, not other uses of the caller's tensor.
        flat_primals = [tf.identity(primal) for primal in flat_primals]
        super().__init__(primals, flat_primals)
        graph = tf.compat.v1.get_default_graph()
        first = len(graph.get_operations())
        self.outputs = function(tf.nest.pack_sequence_as(primals, flat_primals))
        self._flat_outputs = structures.flatten_floating(self.outputs, "outputs")
        self.outputs = tf.nest.pack_sequence_as(self.outputs, self._flat_outputs)
        operations = graph.get_operations()[first:]
        random_choices.check(flat_primals, self._flat_outputs, operations)
        detours.check(flat_primals, self._flat_outputs, operations)
        with tf.name_scope("linearize"), precision.products_in(product_dtype):
            self._program = TangentProgram(flat_primals, self._flat_outputs, operations)
        self.connected = self._program.connected
        names, connected = structures.leaf_names(primals), self.connected
        if unconnected == "error":
            _check_connected(names, connected)
        # A zero that the caller asked for explicitly is not a mistake.
        chosen = [n for n, there in zip(names, connected, strict=True) if there or not unconnected]
        sources.check(variables_read(self._flat_outputs, operations), chosen)
        self._transposed: dict[int, tuple[Any, list[tf.Tensor], list[tf.Tensor | None]]] = {}

    def _push(self, tangents: list[tf.Tensor]) -> list[tf.Tensor]:
        pushed = self._program.push(tangents)
        return [
            tf.zeros_like(output) if tangent is None else tangent
            for output, tangent in zip(self._flat_outputs, pushed, strict=True)
        ]

    def _pull(self, cotangents: list[tf.Tensor]) -> list[tf.Tensor]:
        # The transpose of the linear map: the gradient of <J t, u> with respect to t, at any t.
        # The tangents of a dummy t are traced once per graph; they are never computed at run time.
        graph = tf.compat.v1.get_default_graph()
        control_flow.check_transposable(self._program.choices, graph)
        if id(graph) not in self._transposed:
            with tf.name_scope("transpose"), paired.only_structure():
                dummies = [_dummy(primal) for primal in self._flat_primals]
                first = len(graph.get_operations())
                made = self._program.push(dummies)
                live = [tangent for tangent in made if tangent is not None]
                check_no_silent_zero(dummies, live, graph.get_operations()[first:])
                self._transposed[id(graph)] = (graph, dummies, made)
        _, dummies, pushed = self._transposed[id(graph)]
        pairs = [
            (tangent, u)
            for tangent, u in zip(pushed, cotangents, strict=True)
            if tangent is not None
        ]
        if not pairs:
            return [tf.zeros_like(primal) for primal in self._flat_primals]
        try:
            pulled = tf.gradients(
                [tangent for tangent, _ in pairs],
                dummies,
                grad_ys=[u for _, u in pairs],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        except LookupError as error:
            raise NotDifferentiableError(
                "No cotangent passes what an R-forward rule is made of: "
                f"{str(error).split('. ')[0]}. Build the rule of operations that have a gradient."
            ) from error
        # The transpose of a gather is an IndexedSlices.
        return [tf.convert_to_tensor(cotangent) for cotangent in pulled]


class _EagerLinearization(Linearization):
    """One trace, cut into three functions that pass each other the residuals."""

    def __init__(
        self,
        function: Callable[[Structure], Structure],
        primals: Structure,
        flat_primals: list[tf.Tensor],
        sources: Sources,
        unconnected: str | None,
        product_dtype: tf.DType | None,
    ) -> None:
        super().__init__(primals, flat_primals)
        traced: dict[str, Any] = {}

        def forward(*leaves: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            inner = _GraphLinearization(
                function, primals, list(leaves), sources, unconnected, product_dtype
            )
            traced["outputs"] = tf.nest.map_structure(lambda _: None, inner.outputs)
            traced["connected"] = inner.connected
            push = Traced(inner._push, inner._flat_primals)
            pull = Traced(inner._pull, inner._flat_outputs)
            residuals = {tensor.ref(): tensor for tensor in push.residuals + pull.residuals}
            order = {ref: i for i, ref in enumerate(residuals)}
            for name, cut in (("push", push), ("pull", pull)):
                traced[name] = (cut, [order[tensor.ref()] for tensor in cut.residuals])
            return inner._flat_outputs, list(residuals.values())

        specs = [tf.TensorSpec(primal.shape, primal.dtype) for primal in flat_primals]
        # Not by a call, which would make TensorFlow warn of retracing.
        concrete = tf.function(forward, autograph=False).get_concrete_function(*specs)
        held_gradients.hold_all(concrete.graph)
        self._forward = concrete
        self._flat_outputs, self._residuals = concrete(*flat_primals)
        self.outputs = tf.nest.pack_sequence_as(traced["outputs"], self._flat_outputs)
        self.connected = traced["connected"]
        self._push_function, self._push_order = traced["push"]
        self._pull_function, self._pull_order = traced["pull"]

    def check_deterministic(self) -> None:
        determinism.check_function(self._flat_outputs, self._forward(*self._flat_primals)[0])

    def _push(self, tangents: list[tf.Tensor]) -> list[tf.Tensor]:
        return self._push_function(tangents, [self._residuals[i] for i in self._push_order])

    def _pull(self, cotangents: list[tf.Tensor]) -> list[tf.Tensor]:
        return self._pull_function(cotangents, [self._residuals[i] for i in self._pull_order])


def _check_connected(names: list[str], connected: list[bool]) -> None:
    loose = [name for name, there in zip(names, connected, strict=True) if not there]
    if loose:
        raise ValueError(
            f"The outputs do not depend on {loose}. Does the function read a variable instead of "
            'the tensor it is given? Pass unconnected="zero" if zero derivatives are meant.'
        )


def _dummy(like: tf.Tensor) -> tf.Tensor:
    if like.shape.is_fully_defined():
        return tf.zeros(like.shape, like.dtype)
    return tf.zeros_like(like)
