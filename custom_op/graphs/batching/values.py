"""Tensors of a traced graph for many vectors at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from custom_op import tensorflow_internals as internals


class NoRuleError(Exception):
    """An operation can't carry the extra axis; a loop over the vectors takes its place."""


class Batched(NamedTuple):
    """A tensor's values for K vectors.

    Attributes:
      tensor: The values, with an axis of length K more than the tensor of the traced graph.
      axis: The position of that axis.
    """

    tensor: tf.Tensor
    axis: int


class Diagonal(NamedTuple):
    """A tensor's values for K vectors, of which vector k fills one entry along an axis.

    For vector k it is zero except at the place k - start of the axis, where it is `tensor`.
    Gradients of one output of each example begin like this, and stay so until examples are summed.

    Attributes:
      tensor: The values, of the shape in the traced graph.
      axis: The axis.
      start: The number of the vector whose entry is at place 0.
      vectors: K.
      copies: How many axes like this lie in the axis, one behind the other: a network that runs at
        several derivatives of each example has folded them into the batch.
    """

    tensor: tf.Tensor
    axis: int
    start: int
    vectors: int
    copies: int = 1

    @property
    def length(self) -> int:
        """The number of places of the axis."""
        return self.tensor.shape[self.axis] // self.copies


Value = Any  # a tensor that is the same for all vectors, a Batched or a Diagonal

# A diagonal is written out only if its tensor then has at most this many entries.
LARGEST_DENSE = 2**24


def is_varied(value: Value) -> bool:
    """Returns whether a value differs between the vectors."""
    return isinstance(value, (Batched, Diagonal))


def moved(value: Batched, axis: int) -> Batched:
    """Returns a batched value whose extra axis is at another position."""
    if value.axis == axis:
        return value
    order = [i for i in range(value.tensor.shape.rank) if i != value.axis]
    order.insert(axis, value.axis)
    return Batched(tf.transpose(value.tensor, order), axis)


def padded(value: tf.Tensor, start: int, count: int) -> Batched:
    """Returns rows of some of K vectors, the first axis, as values of all of them."""
    # Rows before the first vector and behind the last are those of no vector.
    value = value[max(-start, 0) : count - start]
    start = max(start, 0)
    after = count - start - value.shape[0]
    if start or after:
        value = tf.pad(value, [[start, after]] + [[0, 0]] * (value.shape.rank - 1))
    return Batched(value, 0)


def dense(value: Value) -> Batched | tf.Tensor:
    """Returns a diagonal as a batched value, anything else as it is.

    Raises:
      NoRuleError: If that is too large.
    """
    if not isinstance(value, Diagonal):
        return value
    size, length = value.tensor.shape[value.axis], value.length
    if value.vectors * value.tensor.shape.num_elements() > LARGEST_DENSE:
        raise NoRuleError("a diagonal is too large to be written out")
    ones = tf.tile(tf.eye(length, dtype=value.tensor.dtype), [1, value.copies])
    after = value.tensor.shape.rank - 1 - value.axis
    ones = tf.reshape(ones, [length, *[1] * value.axis, size, *[1] * after])
    return padded(ones * value.tensor[tf.newaxis], value.start, value.vectors)


def aligned(values: Sequence[Value], rank: int) -> tuple[list[tf.Tensor], int]:
    """Returns tensors that broadcast against each other, with the extra axis at one position.

    Args:
      values: Values of any ranks, at least one of them batched.
      rank: The rank of their result in the traced graph, that of none is larger.

    Returns:
      The tensors, and the position of the extra axis in the result.
    """
    plain = [dense(value) for value in values]
    batched = [value for value in plain if isinstance(value, Batched)]
    # The largest one stays as it lies in memory.
    largest = max(batched, key=lambda value: value.tensor.shape.num_elements() or 0)
    axis = largest.axis + rank + 1 - largest.tensor.shape.rank
    tensors = []
    for value in plain:
        if isinstance(value, Batched):
            missing = rank + 1 - value.tensor.shape.rank
            tensor = moved(value, max(axis - missing, 0)).tensor
            for _ in range(missing - axis):
                tensor = tf.expand_dims(tensor, 1)
        else:
            place = axis - (rank - value.shape.rank)
            tensor = tf.expand_dims(value, place) if place > 0 else value
        tensors.append(tensor)
    return tensors, axis


def together(values: Sequence[Value], count: int) -> tuple[list[tf.Tensor], int]:
    """Returns values of equal rank with an extra axis of length K each, all at one position."""
    plain = [dense(value) for value in values]
    batched = [value for value in plain if isinstance(value, Batched)]
    axis = max(batched, key=lambda value: value.tensor.shape.num_elements() or 0).axis
    tensors = []
    for value in plain:
        if isinstance(value, Batched):
            tensors.append(moved(value, axis).tensor)
        else:
            tensors.append(tf.repeat(tf.expand_dims(value, axis), count, axis))
    return tensors, axis


def run(op: tf.Operation, inputs: Sequence[tf.Tensor], **changed: Any) -> list[tf.Tensor]:
    """Runs an operation of a traced graph on inputs of other shapes.

    Args:
      op: The operation; its attributes are kept.
      inputs: A tensor for each of its inputs.
      **changed: Attributes with other values, integers.

    Returns:
      The outputs.
    """
    graph = tf.compat.v1.get_default_graph()
    attributes = dict(op.node_def.attr)
    for name in ("_class", internals.CUSTOM_GRADIENT, "_output_shapes"):
        attributes.pop(name, None)
    for name, value in changed.items():
        attributes[name] = type(op.node_def.attr[name])(i=value)
    copy = graph.create_op(
        op.type,
        [tf.convert_to_tensor(value) for value in inputs],
        [output.dtype for output in op.outputs],
        attrs=attributes,
        op_def=op.op_def,
        name=f"b_{op.name.rpartition('/')[2]}",
    )
    if internals.is_recorded():
        internals.show_to_tapes(copy, op.type)
    return list(copy.outputs)


def constant(tensor: tf.Tensor) -> Any:
    """Returns the value of sizes, axes or indices.

    Raises:
      NoRuleError: If the graph does not tell it.
    """
    value = None if is_varied(tensor) else _known(tensor)
    if value is None:
        raise NoRuleError("sizes are not known when the graph is built")
    return value


def _known(tensor: tf.Tensor) -> Any:
    """Returns a tensor's value if the graph tells it, also where TensorFlow does not look."""
    value = tf.get_static_value(tensor)
    if value is not None or tensor.op.type not in ("ConcatOffset", "FloorMod"):
        return value
    read = [_known(each) for each in tensor.op.inputs]
    if any(each is None for each in read):
        return None
    if tensor.op.type == "FloorMod":
        return read[0] % read[1]
    # Where a part of a concatenation begins.
    axis, *sizes = read
    value = np.zeros_like(sizes[0])
    value[axis] = sum(size[axis] for size in sizes[: tensor.value_index])
    return value


def logical_shape(value: Value) -> list[int]:
    """Returns the static shape of a value in the traced graph, without the extra axis.

    Raises:
      NoRuleError: If it is not static.
    """
    shape = shape_of(value.tensor if is_varied(value) else value)
    if isinstance(value, Batched):
        del shape[value.axis]
    return shape


def shape_of(tensor: tf.Tensor) -> list[int]:
    """Returns the static shape of a tensor of the traced graph.

    Raises:
      NoRuleError: If it is not static.
    """
    if not tensor.shape.is_fully_defined():
        raise NoRuleError("a shape is not static")
    return tensor.shape.as_list()
