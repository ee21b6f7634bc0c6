"""A traced function of one vector, applied to many at once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from custom_op import registry
from custom_op.graphs.batching import elementwise, products, shapes  # noqa: F401  (their rules)
from custom_op.graphs.batching.table import RULES
from custom_op.graphs.batching.values import (
    Batched,
    Diagonal,
    NoRuleError,
    Value,
    dense,
    is_varied,
    moved,
)
from custom_op.graphs.copying import Copies, Traced
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, LOOPS

# The entries of a function's largest tensor for all vectors of one chunk, at most.
LARGEST_CHUNK = 2**18


class _Batched(Copies):
    """Copies operations so that they carry the extra axis."""

    def __init__(
        self, inputs: Sequence[tf.Tensor], values: Sequence[Value], *, count: int, **options: Any
    ) -> None:
        super().__init__(inputs, values, **options)
        self._count = count
        self._make = functools.partial(_Batched, count=count, **options)

    def _copy(self, inner: tf.Operation, values: list[Value]) -> Sequence[Value]:
        if not any(map(is_varied, values)) or inner.type in CALLS:
            return super()._copy(inner, values)
        if inner.type in (*LOOPS, *BRANCHES) or inner.op_def.is_stateful:
            raise NoRuleError(f"{inner.type} runs its operations itself")
        if inner.type in ("IdentityN", "ShapeN"):
            # Also where a tf.custom_gradient replaces its derivative, by an equal one.
            return values
        return self._by_rule(inner, values)

    def _by_rule(self, inner: tf.Operation, values: list[Value]) -> Sequence[Value]:
        rule = RULES.get(inner.type)
        if rule is not None:
            # An unusual operation, for which a rule is not made, still has the loop.
            with contextlib.suppress(NoRuleError, ValueError, TypeError, IndexError):
                results = rule(inner, values, self._count)
                if all(map(self._fits, results, inner.outputs)):
                    return results
        return self._one_by_one(inner, values)

    def _fits(self, result: Value, output: tf.Tensor) -> bool:
        """Returns whether a rule's result has the shape that the traced graph states."""
        if isinstance(result, Batched):
            shape = output.shape.as_list()
            return result.tensor.shape == [
                *shape[: result.axis],
                self._count,
                *shape[result.axis :],
            ]
        tensor = result.tensor if isinstance(result, Diagonal) else result
        return tensor.shape == output.shape

    def _one_by_one(self, inner: tf.Operation, values: list[Value]) -> list[Batched]:
        """Runs an operation for one vector after the other."""
        if any(tensor.dtype in (tf.variant, tf.resource) for tensor in inner.outputs):
            raise NoRuleError(f"{inner.type} returns no dense tensor")
        varied = [i for i, value in enumerate(values) if is_varied(value)]
        rows = [moved(dense(values[i]), 0).tensor for i in varied]

        def one(parts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            inputs = list(values)
            for i, part in zip(varied, parts, strict=True):
                inputs[i] = part
            return registry.replay(inner, inputs)

        specs = [tf.TensorSpec(output.shape, output.dtype) for output in inner.outputs]
        results = tf.map_fn(one, rows, fn_output_signature=specs)
        return [Batched(result, 0) for result in results]


def on_rows(function: Callable[[tf.Tensor], tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
    """Applies a linear function of a vector to the rows of a matrix, many at a time.

    Call it inside a graph: what it traces is built once there.

    Args:
      function: A function from a vector [n] to a vector [m], of TensorFlow operations.
      rows: A [K, n] matrix.

    Returns:
      The results, [K, m]. Where an operation can't take several vectors at once, or shapes are not
      static, a loop takes its place, at worst around the whole function.
    """
    if not rows.shape.is_fully_defined():
        return tf.map_fn(function, rows)
    traced = Traced(lambda leaves: [function(leaves[0])], [rows[0]])
    count = rows.shape[0]
    chunk = _chunk(traced, count)
    if not chunk:
        return tf.map_fn(function, rows)
    chunks = -(-count // chunk)
    try:
        if chunks == 1:
            return _together(traced, Batched(rows, 0), count)
        filled = tf.pad(rows, [[0, chunks * chunk - count], [0, 0]])
        results = tf.map_fn(
            lambda part: _together(traced, Batched(part, 0), chunk),
            tf.reshape(filled, [chunks, chunk, rows.shape[1]]),
        )
    except NoRuleError:
        return tf.map_fn(function, rows)
    return tf.reshape(results, [chunks * chunk, results.shape[-1]])[:count]


def on_examples(
    function: Callable[[tf.Tensor], tf.Tensor], like: tf.Tensor, component: tf.Tensor
) -> tf.Tensor:
    """Applies a linear function to tensors that are zero but for one example.

    Call it inside a graph.

    Args:
      function: A function of a tensor like `like`, to a vector [n].
      like: A tensor of static shape [B, ...]; only shape and dtype matter.
      component: The example that is not zero, of the shape [...].

    Returns:
      A [B, n] matrix. Row b is the function's value at the tensor that is `component` at example b.

    Raises:
      NoRuleError: If an operation needs all of them written out and they are too large, or shapes
        are not static.
    """
    traced = Traced(lambda leaves: [function(leaves[0])], [like])
    if not _chunk(traced, 1):
        raise NoRuleError("shapes are not static")
    examples = tf.broadcast_to(component, like.shape)
    return _together(traced, Diagonal(examples, 0, 0, like.shape[0]), like.shape[0])


def _together(traced: Traced, value: Value, count: int) -> tf.Tensor:
    """Returns the results for K vectors, as rows."""

    def make(inputs: Sequence[tf.Tensor], given: Sequence[Value]) -> Copies:
        return _Batched(inputs, given, count=count)

    result = dense(traced.inline([value], traced.residuals, make)[0])
    if not isinstance(result, Batched):
        return tf.repeat(result[tf.newaxis], count, 0)
    return moved(result, 0).tensor


def _chunk(traced: Traced, count: int) -> int:
    """Returns how many vectors to take at once; 0 if what the function reads has no static shape.

    Tensors that stay in a processor's cache are the fastest, and memory is bounded.

    Args:
      traced: The function.
      count: The number of vectors.
    """
    if not all(shape.is_fully_defined() for shape in traced.floating_reads()):
        return 0
    tensors = [output for op in traced.operations() for output in op.outputs]
    floating = [tensor.shape for tensor in tensors if tensor.dtype.is_floating]
    largest = max((shape.num_elements() or 0 for shape in floating), default=1)
    chunk = max(1, min(count, LARGEST_CHUNK // max(largest, 1)))
    # Chunks of equal size, without one that is nearly empty.
    return -(-count // -(-count // chunk))
