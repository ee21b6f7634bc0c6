"""How Taylor series pass an operation of a traced function.

Dense layers fold the directions into the batch, elementwise functions use their derivatives, linear
operations are applied to each coefficient. Any other operation is differentiated by nested
Jacobian-vector products of `custom_op`, direction by direction; where a function contains one that
can't be run by itself (`needs_nesting`), so is the whole function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

import custom_op
from custom_op import registry
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, LOOPS
from mlhf.derivatives import elementwise
from mlhf.derivatives.series import Coefficients, Directions, fitted

# One entry per input of an operation; None for an input that does not depend on the points.
Inputs = Sequence[Coefficients | None]
Outputs = list[Coefficients | None]
Rule = Callable[[tf.Operation, Inputs, Directions], Outputs]

# Linear in the first input; the others are constants.
_LINEAR_IN_FIRST = frozenset(
    """AvgPool BatchToSpaceND BroadcastTo Conv2D Cumsum DepthToSpace EnsureShape GatherNd GatherV2
    MatrixDiagV3 Mean Pad ReverseV2 Roll Slice SpaceToBatchND SpaceToDepth StridedSlice Sum Tile
    Transpose Unpack""".split()
)
# Linear in all inputs jointly, so that constants drop out.
_JOINTLY_LINEAR = frozenset(("AddN", "ConcatV2", "Pack"))
_RESHAPES = frozenset(("ExpandDims", "Reshape", "Squeeze"))
_SAME = frozenset(("CheckNumerics", "Identity", "PreventGradient", "Snapshot"))


class Slopes:
    """The derivatives of elementwise functions, computed once per operation."""

    def __init__(self) -> None:
        self._known: dict[str, list[Any]] = {}

    def of(self, op: tf.Operation) -> list[Any]:
        """Returns the four derivatives of an elementwise operation."""
        if op.name not in self._known:
            function = elementwise.FUNCTIONS[op.type]
            self._known[op.name] = function(op, op.inputs[0], op.outputs[0])
        return self._known[op.name]


def push(op: tf.Operation, inputs: Inputs, directions: Directions, slopes: Slopes) -> Outputs:
    """Returns the series of an operation's outputs, None for constants.

    Args:
      op: The operation.
      inputs: The coefficients of its inputs; at least one is not None.
      directions: The directions.
      slopes: The derivatives of elementwise functions.
    """
    if op.type in elementwise.FUNCTIONS and inputs[0] is not None:
        return [directions.compose(slopes.of(op), inputs[0])]
    rule = _RULES.get(op.type)
    if rule is not None:
        return rule(op, inputs, directions)
    if op.type in _SAME:
        return [inputs[0]]
    if op.type in _RESHAPES and op.outputs[0].shape.is_fully_defined():
        return _each(lambda c: tf.reshape(c, [c.shape[0], *op.outputs[0].shape]), inputs[0])
    if op.type in _RESHAPES or op.type in _JOINTLY_LINEAR:
        return _linear(op, inputs, directions)
    if op.type in _LINEAR_IN_FIRST and all(others is None for others in inputs[1:]):
        return _linear(op, inputs, directions)
    if op.type in ("StopGradient", "ZerosLike", "OnesLike"):
        return [None] * len(op.outputs)
    return _nested(op, inputs, directions)


def _each(function: Callable[[tf.Tensor], tf.Tensor], series: Coefficients | None) -> Outputs:
    if series is None:
        return [None]
    return [[None if c is None else function(c) for c in series]]


def _linear(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    """Applies a linear operation to each coefficient along each direction."""
    outputs: list[Coefficients] = [[] for _ in op.outputs]
    for k in range(directions.order):
        now = [None if series is None else series[k] for series in inputs]
        there = [c for c in now if c is not None]
        if not there:
            for output in outputs:
                output.append(None)
            continue
        joint = op.type in _JOINTLY_LINEAR

        def read(tensor: tf.Tensor, series: Any, c: Any, number: int, joint: bool) -> tf.Tensor:
            if c is not None:
                return c[number]
            # A zero coefficient, or a constant that drops out.
            zero = series is not None or (joint and tensor.dtype.is_floating)
            return tf.zeros_like(tensor) if zero else tensor

        copies = [
            registry.replay(
                op,
                [
                    read(tensor, series, c, number, joint)
                    for tensor, series, c in zip(op.inputs, inputs, now, strict=True)
                ],
            )
            for number in range(there[0].shape[0])
        ]
        for place, output in enumerate(outputs):
            output.append(tf.stack([copy[place] for copy in copies]))
    return [*outputs]


def needs_nesting(op: tf.Operation) -> bool:
    """Returns whether a copy of an operation, on other inputs, has another derivative.

    The gradient of a `tf.custom_gradient` reads tensors of the trace that it was made in. Calls,
    loops and branches may contain one.
    """
    return op.type in (*BRANCHES, *CALLS, *LOOPS) or registry.has_custom_gradient(op)


def nested(
    function: Callable[[tf.Tensor], list[tf.Tensor]], order: int, dtype: tf.DType
) -> list[list[tf.Tensor]]:
    """Returns the derivatives of a function of one number at zero, by nested products.

    Args:
      function: The function.
      order: The highest order.
      dtype: The dtype of the number.

    Returns:
      For each output, its value and its derivatives of orders 1 to `order`.
    """
    one = tf.ones([], dtype)

    def deeper(inner: Callable[[tf.Tensor], Any]) -> Callable[[tf.Tensor], Any]:
        def differentiated(t: tf.Tensor) -> Any:
            values, tangents = custom_op.jvp(inner, t, one)
            return [[*v, d[-1]] for v, d in zip(values, tangents, strict=True)]

        return differentiated

    tower: Callable[[tf.Tensor], Any] = lambda t: [[output] for output in function(t)]  # noqa: E731
    for _ in range(order):
        tower = deeper(tower)
    return tower(tf.zeros([], dtype))


def _nested(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    """Differentiates t ↦ y(x₀ + x₁ t + ...) by nested Jacobian-vector products."""
    order = directions.order
    floating = [i for i, output in enumerate(op.outputs) if output.dtype.is_floating]
    dtype = op.outputs[floating[0]].dtype

    def along(coefficients: list[list[tf.Tensor | None]]) -> Callable[[tf.Tensor], list[tf.Tensor]]:
        def at(t: tf.Tensor) -> list[tf.Tensor]:
            values = []
            for tensor, series in zip(op.inputs, coefficients, strict=True):
                value = tensor
                for k, c in enumerate(series):
                    if c is not None:
                        value += tf.cast(t ** (k + 1), value.dtype) * c
                values.append(value)
            outputs = registry.replay(op, values)
            return [outputs[i] for i in floating]

        return at

    def picked(number: int, last: int) -> list[list[tf.Tensor | None]]:
        return [
            [None if c is None else c[number] for c in (series or [])[:last]] for series in inputs
        ]

    given = [c for series in inputs for c in (series or []) if c is not None]
    # A collapsed coefficient has no directions: it is passed on linearly, by itself.
    last = order - 1 if directions.is_collapsed else order
    towers = [
        nested(along(picked(number, last)), order, dtype)
        for number in range(max(c.shape[0] for c in given))
    ]
    outputs: Outputs = [None] * len(op.outputs)
    for place, i in enumerate(floating):
        outputs[i] = [
            tf.stack([tower[place][k] for tower in towers]) / math.factorial(k)
            for k in range(1, order + 1)
        ]
    if directions.is_collapsed:
        straight = nested(
            along([[None if not s else s[-1] if s[-1] is None else s[-1][0]] for s in inputs]),
            1,
            dtype,
        )
        for place, i in enumerate(floating):
            series = outputs[i]
            if series is not None and series[-1] is not None:
                more = directions.summed(series[-1]) if order > 1 else 0.0
                series[-1] = more + straight[place][1][tf.newaxis]
    return outputs


def _matmul(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    a, b = op.inputs
    if op.type == "MatMul":
        flip_a, flip_b = op.get_attr("transpose_a"), op.get_attr("transpose_b")
    else:
        flip_a, flip_b = op.get_attr("adj_x"), op.get_attr("adj_y")
    rows = a.shape.as_list()
    if op.type == "MatMul" and inputs[1] is None and not flip_a and rows[0] is not None:
        width = op.outputs[0].shape[-1]

        def folded(c: tf.Tensor) -> tf.Tensor:
            flat = tf.reshape(c, [c.shape[0] * rows[0], a.shape[-1]])
            flat = tf.matmul(flat, b, transpose_b=flip_b)
            return tf.reshape(flat, [c.shape[0], rows[0], width])

        return _each(folded, inputs[0])

    def multiply(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x, y, transpose_a=flip_a, transpose_b=flip_b)

    # The leading axis of coefficients is one more axis in front only of the longer shape.
    is_short = [
        series is not None and tensor.shape.rank < op.outputs[0].shape.rank
        for series, tensor in zip(inputs, op.inputs, strict=True)
    ]
    if any(is_short):
        return _nested(op, inputs, directions)
    return [directions.product(multiply, a, inputs[0], b, inputs[1])]


def _fit(op: tf.Operation, inputs: Inputs, place: int) -> Coefficients | None:
    """Returns an input's coefficients, broadcast as the operation broadcasts the input."""
    series, after = inputs[place], op.outputs[0].shape
    if series is None:
        return None
    before = op.inputs[place].shape
    return [None if c is None else fitted(c, before, after) for c in series]


def _add(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    a, b = _fit(op, inputs, 0), _fit(op, inputs, 1)
    sign = -1.0 if op.type == "Sub" else 1.0
    if b is not None and sign < 0:
        b = [None if c is None else -c for c in b]
    if a is None or b is None:
        return [b if a is None else a]
    return [[directions.add(pair) for pair in zip(a, b, strict=True)]]


def _neg(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    del op, directions
    return _each(tf.negative, inputs[0])


def _cast(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    del directions
    dtype = op.outputs[0].dtype
    return _each(lambda c: tf.cast(c, dtype), inputs[0]) if dtype.is_floating else [None]


def _mul(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    a, b = op.inputs
    left, right = _fit(op, inputs, 0), _fit(op, inputs, 1)
    return [directions.product(tf.multiply, a, left, b, right)]


def _divide(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    a, b = op.inputs
    left, right = _fit(op, inputs, 0), _fit(op, inputs, 1)
    inverse = 1 / b
    if right is not None:
        right = directions.compose(elementwise.reciprocal(None, b, inverse), right)
    return [directions.product(tf.multiply, a, left, inverse, right)]


def _squared_difference(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    a, b = _fit(op, inputs, 0), _fit(op, inputs, 1)
    if b is not None:
        b = [None if c is None else -c for c in b]
    nothing: Coefficients = [None] * directions.order
    pairs = zip(a or nothing, b or nothing, strict=True)
    difference = [directions.add(pair) for pair in pairs]
    return [directions.compose([2 * (op.inputs[0] - op.inputs[1]), 2.0, None, None], difference)]


def _pow(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    exponent = tf.get_static_value(op.inputs[1])
    series = _fit(op, inputs, 0)
    if series is None or exponent is None or exponent.size != 1:
        return _nested(op, inputs, directions)
    return [directions.compose(elementwise.power(float(exponent), op.inputs[0]), series)]


def _bias_add(op: tf.Operation, inputs: Inputs, directions: Directions) -> Outputs:
    if inputs[1] is not None:
        return _nested(op, inputs, directions)
    return [inputs[0]]


_RULES: dict[str, Rule] = {
    "Add": _add,
    "AddV2": _add,
    "BatchMatMulV2": _matmul,
    "BatchMatMulV3": _matmul,
    "BiasAdd": _bias_add,
    "Cast": _cast,
    "MatMul": _matmul,
    "Mul": _mul,
    "Neg": _neg,
    "Pow": _pow,
    "RealDiv": _divide,
    "SquaredDifference": _squared_difference,
    "Sub": _add,
}
