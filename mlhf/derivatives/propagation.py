"""Taylor series from points to a function's outputs, through the function's traced operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op import structures
from mlhf.derivatives import elementwise, operations
from mlhf.derivatives.series import Coefficients, Directions

Structure = Any


class TracedFunction:
    """A function of points, traced in the current graph.

    Attributes:
      outputs: Its value, a structure of floating tensors.
    """

    def __init__(self, function: Callable[[tf.Tensor], Structure], points: tf.Tensor) -> None:
        """Calls the function once.

        Args:
          function: The function.
          points: The points; their first axis counts them.
        """
        graph = tf.compat.v1.get_default_graph()
        # An operation of its own: the derivative covers the function, not the points' past.
        self._points = tf.identity(points)
        self._function = function
        first = len(graph.get_operations())
        self.outputs = function(self._points)
        self._flat = structures.flatten_floating(self.outputs, "outputs")
        self.outputs = tf.nest.pack_sequence_as(self.outputs, self._flat)
        self._operations = self._between(graph.get_operations()[first:])
        self._slopes = operations.Slopes()
        _check_outputs(self.outputs, self._flat, points)

    def _between(self, candidates: list[tf.Operation]) -> list[tf.Operation]:
        """Returns the operations that lead from the points to the outputs, in order."""
        needed = {tensor.ref() for tensor in self._flat}
        ancestors = []
        for op in reversed(candidates):
            if any(output.ref() in needed for output in op.outputs):
                ancestors.append(op)
                needed.update(tensor.ref() for tensor in op.inputs)
        dependent, found = {self._points.ref()}, []
        for op in reversed(ancestors):
            if any(tensor.ref() in dependent for tensor in op.inputs):
                found.append(op)
                dependent.update(o.ref() for o in op.outputs if o.dtype.is_floating)
        return found

    def check_smooth(self, order: int) -> None:
        """Checks that the function has derivatives that are not zero almost everywhere.

        Args:
          order: The order of the derivatives.

        Raises:
          ValueError: If a derivative of order 2 or more passes a piecewise linear operation.
        """
        kinked = sorted({op.type for op in self._operations} & elementwise.KINKED)
        if order > 1 and kinked:
            raise ValueError(
                f"Expected a function with derivatives of order {order}, got one with "
                f"{', '.join(kinked)}: it is piecewise linear there, so that its second derivative "
                "is zero almost everywhere, and so is an equation's residual. Use tanh, sin, "
                "softplus, gelu or swish, or say allow_kinks=True if that is meant, as with powers "
                "of ReLU."
            )

    def series(
        self,
        directions: tf.Tensor,
        order: int,
        collapse: bool = False,
        weights: tf.Tensor | None = None,
    ) -> list[list[tf.Tensor]]:
        """Returns the Taylor coefficients of the outputs along directions.

        Args:
          directions: The directions, [K, *points' shape] or broadcastable to it.
          order: The highest order p, 1 to 4.
          collapse: Whether the highest coefficients are summed over the directions.
          weights: The weights of the directions in that sum, [K]; None for ones.

        Returns:
          For each output, coefficients 1 to p, each [K, *output's shape]; the last, if it is
          collapsed, [1, *output's shape].
        """
        shared = Directions(order, collapse, weights)
        if any(operations.needs_nesting(op) for op in self._operations):
            return self._nested(directions, shared)
        first: tf.Tensor = directions
        start: Coefficients = [first] + [None] * (order - 1)
        if order == 1:
            start = [shared.summed(first)]
        known: dict[Any, Coefficients] = {self._points.ref(): start}
        for op in self._operations:
            incoming = [known.get(tensor.ref()) for tensor in op.inputs]
            if all(series is None for series in incoming):
                continue
            outgoing = operations.push(op, incoming, shared, self._slopes)
            for output, series in zip(op.outputs, outgoing, strict=True):
                if series is not None:
                    known[output.ref()] = series
        lengths = [directions.shape[0]] * order
        if collapse:
            lengths[-1] = 1
        return [
            [
                _zeros(length, output) if c is None else c
                for length, c in zip(lengths, known.get(output.ref(), [None] * order), strict=True)
            ]
            for output in self._flat
        ]

    def _nested(self, directions: tf.Tensor, shared: Directions) -> list[list[tf.Tensor]]:
        """Returns the coefficients by nested Jacobian-vector products, direction by direction."""

        def along(direction: tf.Tensor) -> Any:
            return lambda t: tf.nest.flatten(self._function(self._points + t * direction))

        towers = [
            operations.nested(along(directions[k]), shared.order, self._points.dtype)
            for k in range(directions.shape[0])
        ]
        series = []
        for place in range(len(self._flat)):
            each = [
                tf.stack([tower[place][k] for tower in towers]) / math.factorial(k)
                for k in range(1, shared.order + 1)
            ]
            series.append([*each[:-1], shared.summed(each[-1])])
        return series


def _zeros(length: int, output: tf.Tensor) -> tf.Tensor:
    return tf.zeros(tf.concat([[length], tf.shape(output)], 0), output.dtype)


def _check_outputs(outputs: Structure, flat: list[tf.Tensor], points: tf.Tensor) -> None:
    for name, output in zip(structures.leaf_names(outputs), flat, strict=True):
        if output.shape.rank is None or output.shape.rank == 0:
            raise ValueError(
                f"Expected outputs with one row per point, got {output.shape} for {name!r}."
            )
        if not output.shape[:1].is_compatible_with(points.shape[:1]):
            raise ValueError(
                f"Expected outputs with one row per point, {points.shape[0]} rows, got the shape "
                f"{output.shape} for {name!r}: a row may depend on its own point only."
            )
