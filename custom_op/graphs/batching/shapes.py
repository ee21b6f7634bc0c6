"""Sums, and operations that move entries about."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from custom_op.graphs.batching.table import batches
from custom_op.graphs.batching.values import (
    Batched,
    Diagonal,
    NoRuleError,
    Value,
    aligned,
    constant,
    dense,
    is_varied,
    logical_shape,
    moved,
    padded,
    run,
    shape_of,
    together,
)


@batches("Shape", "Size", "Rank")
def of_the_shape(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """What an operation asks about a shape, without the extra axis."""
    return [run(op, [tf.zeros(logical_shape(values[0]), op.inputs[0].dtype)])[0]]


@batches("Sum", "Mean")
def reduction(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A sum along some axes."""
    value, rank = values[0], op.inputs[0].shape.rank
    axes = sorted(int(axis) % rank for axis in np.reshape(constant(values[1]), [-1]))
    keeps, reduce = op.get_attr("keep_dims"), getattr(tf, f"reduce_{op.type.lower()}")
    if isinstance(value, Diagonal):
        if value.axis not in axes:
            less = 0 if keeps else sum(axis < value.axis for axis in axes)
            total = reduce(value.tensor, axes, keepdims=keeps)
            return [value._replace(tensor=total, axis=value.axis - less)]
        if op.type == "Sum":
            return [_summed(value, axes, keeps)]
    batched = dense(value)
    physical = [axis + (axis >= batched.axis) for axis in axes]
    less = 0 if keeps else sum(axis < batched.axis for axis in axes)
    return [Batched(reduce(batched.tensor, physical, keepdims=keeps), batched.axis - less)]


def _summed(value: Diagonal, axes: Sequence[int], keeps: bool) -> Batched:
    """Returns a sum along the axis of a diagonal, of which each vector sees one entry."""
    order = [value.axis] + [i for i in range(value.tensor.shape.rank) if i != value.axis]
    rows = tf.transpose(value.tensor, order) if value.axis else value.tensor
    others = [order.index(axis) for axis in axes if axis != value.axis]
    total = tf.reduce_sum(rows, others, keepdims=keeps) if others else rows
    if value.copies > 1:
        parted = tf.reshape(total, [value.copies, value.length, *total.shape[1:]])
        total = tf.reduce_sum(parted, 0)
    if keeps:
        total = tf.expand_dims(total, value.axis + 1)
    return padded(total, value.start, value.vectors)


@batches("BiasAddGrad")
def bias_gradient(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """The sum along all axes but that of the channels."""
    (value,), rank = values, op.inputs[0].shape.rank
    channels = 1 if op.get_attr("data_format").startswith(b"NC") else rank - 1
    axes = [axis for axis in range(rank) if axis != channels]
    if isinstance(value, Diagonal) and value.axis in axes:
        return [_summed(value, axes, False)]
    batched = dense(value)
    physical = [axis + (axis >= batched.axis) for axis in axes]
    place = 0 if batched.axis <= channels else 1
    return [Batched(tf.reduce_sum(batched.tensor, physical), place)]


@batches("Reshape", "Squeeze", "ExpandDims", "EnsureShape")
def reshape(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """The same entries in another shape."""
    value = values[0]
    before = logical_shape(value)
    after = _shape_after(op, values, math.prod(before))
    if isinstance(value, Diagonal):
        # What lies outside of the places may be folded into their axis, or out of it.
        outside, length = math.prod(before[: value.axis]) * value.copies, value.length
        for axis, size in enumerate(after):
            copies = size // length
            if copies * length == size and math.prod(after[:axis]) * copies == outside:
                folded = tf.reshape(value.tensor, after)
                return [value._replace(tensor=folded, axis=axis, copies=copies)]
    batched = dense(value)
    outside = math.prod(before[: batched.axis])
    places = [i for i in range(len(after) + 1) if math.prod(after[:i]) == outside]
    if not places:
        batched, places = moved(batched, 0), [0]
    shape = [*after[: places[0]], count, *after[places[0] :]]
    return [Batched(tf.reshape(batched.tensor, shape), places[0])]


def _shape_after(op: tf.Operation, values: list[Value], entries: int) -> list[int]:
    """Returns the shape that entries are given, which the graph may state or the second input."""
    if op.type != "Reshape" or op.outputs[0].shape.is_fully_defined():
        return shape_of(op.outputs[0])
    shape = constant(values[1]).tolist()
    return [entries // -math.prod(shape) if size == -1 else size for size in shape]


@batches("Transpose", "ConjugateTranspose")
def transposition(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Axes in another order; the extra axis stays behind the axis that it followed."""
    value, order = values[0], constant(values[1]).tolist()
    if isinstance(value, Diagonal):
        swapped = run(op, [value.tensor, order])[0]
        return [value._replace(tensor=swapped, axis=order.index(value.axis))]
    place = order.index(value.axis - 1) + 1 if value.axis else 0
    physical = [axis + (axis >= value.axis) for axis in order]
    physical.insert(place, value.axis)
    return [Batched(run(op, [value.tensor, physical])[0], place)]


@batches("ConcatV2", "Pack")
def joining(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Several tensors along one axis, which is new for `Pack`."""
    new, rank = op.type == "Pack", op.outputs[0].shape.rank
    parts = values if new else values[:-1]
    axis = int(op.get_attr("axis") if new else constant(values[-1])) % rank
    first = parts[0]
    if isinstance(first, Diagonal) and all(
        isinstance(part, Diagonal) and part[1:] == first[1:] for part in parts
    ):
        tensors = [part.tensor for part in parts]
        if new:
            place = first.axis + (axis <= first.axis)
            return [first._replace(tensor=tf.stack(tensors, axis), axis=place)]
        if axis != first.axis:
            return [first._replace(tensor=tf.concat(tensors, axis))]
    tensors, place = together(parts, count)
    if new:
        return [Batched(tf.stack(tensors, axis + (axis > place)), place + (axis <= place))]
    return [Batched(tf.concat(tensors, axis + (axis >= place)), place)]


@batches("Unpack", "Split", "SplitV")
def parting(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """One tensor as several, along one axis."""
    if op.type == "Unpack":
        value, axis = values[0], int(op.get_attr("axis")) % op.inputs[0].shape.rank
        if isinstance(value, Diagonal) and axis != value.axis:
            at = value.axis - (axis < value.axis)
            parts = tf.unstack(value.tensor, axis=axis)
            return [value._replace(tensor=part, axis=at) for part in parts]
        batched = dense(value)
        parts = tf.unstack(batched.tensor, axis=axis + (axis >= batched.axis))
        return [Batched(part, batched.axis - (axis < batched.axis)) for part in parts]
    order = (1, 0) if op.type == "Split" else (0, 2)
    value, axis = values[order[0]], int(constant(values[order[1]]))
    axis %= op.inputs[order[0]].shape.rank
    sizes = [shape_of(output)[axis] for output in op.outputs]
    if isinstance(value, Diagonal) and axis != value.axis:
        return [value._replace(tensor=part) for part in tf.split(value.tensor, sizes, axis)]
    batched = dense(value)
    parts = tf.split(batched.tensor, sizes, axis + (axis >= batched.axis))
    return [Batched(part, batched.axis) for part in parts]


@batches("Slice")
def slicing(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A block; of a diagonal those vectors keep entries whose entry lies in it."""
    value, begin = values[0], constant(values[1]).tolist()
    before = logical_shape(value)
    size = [
        whole - first if taken == -1 else taken
        for whole, first, taken in zip(before, begin, constant(values[2]).tolist(), strict=True)
    ]
    if isinstance(value, Diagonal) and _keeps_copies(value, size[value.axis]):
        part = tf.slice(value.tensor, begin, size)
        return [value._replace(tensor=part, start=value.start + begin[value.axis])]
    batched = dense(value)
    begin.insert(batched.axis, 0)
    size.insert(batched.axis, count)
    return [Batched(tf.slice(batched.tensor, begin, size), batched.axis)]


def _keeps_copies(value: Diagonal, size: int) -> bool:
    """Whether an axis of another size is still made of the same copies."""
    return value.copies == 1 or size == value.tensor.shape[value.axis]


_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


@batches("StridedSlice")
def strided_slice(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Every entry that a subscript names."""
    value, *ranges = values
    if isinstance(value, Diagonal):
        kept = _slice_of_diagonal(op, value, ranges)
        if kept is not None:
            return [kept]
    batched = moved(dense(value), 0)
    ranges, masks = _with_first_axis(op, ranges)
    return [Batched(run(op, [batched.tensor, *ranges], **masks)[0], 0)]


@batches("StridedSliceGrad")
def strided_slice_back(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Zeros with the values where a subscript took them from."""
    shape, *ranges, value = values
    if isinstance(value, Diagonal):
        whole = constant(shape).tolist()
        for axis, there in enumerate(_along_axes(op, whole, ranges)):
            if there is None or not _keeps_copies(value, whole[axis]):
                continue
            if there[0] == value.axis:
                filled = tf.ensure_shape(run(op, [shape, *ranges, value.tensor])[0], whole)
                start = value.start - there[1]
                return [value._replace(tensor=filled, axis=axis, start=start)]
    batched = moved(dense(value), 0)
    ranges, masks = _with_first_axis(op, ranges)
    shape = [count, *constant(shape).tolist()]
    filled = run(op, [tf.constant(shape, ranges[0].dtype), *ranges, batched.tensor], **masks)[0]
    return [Batched(tf.ensure_shape(filled, shape), 0)]


def _with_first_axis(
    op: tf.Operation, ranges: Sequence[tf.Tensor]
) -> tuple[list[tf.Tensor], dict[str, int]]:
    """Returns begin, end and strides, and masks, that take all of one more axis in front."""
    begin, end, strides = (tf.convert_to_tensor(each) for each in ranges)
    zero, one = tf.zeros([1], begin.dtype), tf.ones([1], begin.dtype)
    longer = [tf.concat(pair, 0) for pair in ((zero, begin), (zero, end), (one, strides))]
    masks = {name: 2 * op.get_attr(name) for name in _MASKS}
    masks["begin_mask"] += 1
    masks["end_mask"] += 1
    return longer, masks


def _slice_of_diagonal(
    op: tf.Operation, value: Diagonal, ranges: Sequence[tf.Tensor]
) -> Diagonal | None:
    """Returns a slice of a diagonal along its axis or others; None if it has no rule."""
    there = _along_axes(op, logical_shape(value), ranges)[value.axis]
    if there is None:
        return None
    axis, first = there
    part = run(op, [value.tensor, *ranges])[0]
    if not _keeps_copies(value, part.shape[axis]):
        return None
    return value._replace(tensor=part, axis=axis, start=value.start + first)


def _along_axes(
    op: tf.Operation, whole: list[int], ranges: Sequence[tf.Tensor]
) -> list[tuple[int, int] | None]:
    """Returns, for each axis of a tensor, which axis of a slice it becomes, and where that begins.

    Args:
      op: The slice.
      whole: The shape of the tensor.
      ranges: The begin, the end and the strides of the subscripts.

    Returns:
      The pairs; None for an axis of which one entry or not every one is taken.
    """
    begin, _, strides = (constant(each).tolist() for each in ranges)
    masks = {name: op.get_attr(name) for name in _MASKS}
    new = [bool(masks["new_axis_mask"] >> i & 1) for i in range(len(begin))]
    ellipsis = [bool(masks["ellipsis_mask"] >> i & 1) for i in range(len(begin))]
    skipped = len(whole) - sum(not (n or e) for n, e in zip(new, ellipsis, strict=True))
    places: list[tuple[int, int] | None] = []
    out = 0
    for i in range(len(begin)):
        if ellipsis[i]:
            places += [(out + j, 0) for j in range(skipped)]
            out += skipped
        elif new[i]:
            out += 1
        elif masks["shrink_axis_mask"] >> i & 1:
            places.append(None)
        else:
            size = whole[len(places)]
            first = 0 if masks["begin_mask"] >> i & 1 else begin[i]
            first = max(first + size, 0) if first < 0 else min(first, size)
            places.append((out, first) if strides[i] == 1 else None)
            out += 1
    return places + [(out + j, 0) for j in range(len(whole) - len(places))]


@batches("Pad", "PadV2", "MirrorPad", "MirrorPadGrad")
def padding(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A tensor with a margin."""
    value, widths, *filler = values
    if any(map(is_varied, filler)):
        raise NoRuleError("the margin's entries vary")
    widths = constant(widths).tolist()
    if (
        isinstance(value, Diagonal)
        and op.type == "Pad"
        and (value.copies == 1 or not any(widths[value.axis]))
    ):
        wide = run(op, [value.tensor, widths])[0]
        return [value._replace(tensor=wide, start=value.start - widths[value.axis][0])]
    batched = dense(value)
    widths.insert(batched.axis, [0, 0])
    return [Batched(run(op, [batched.tensor, widths, *filler])[0], batched.axis)]


@batches("Tile")
def tiling(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Copies side by side."""
    value, multiples = values[0], constant(values[1]).tolist()
    if isinstance(value, Diagonal) and multiples[value.axis] == 1:
        return [value._replace(tensor=tf.tile(value.tensor, multiples))]
    batched = dense(value)
    multiples.insert(batched.axis, 1)
    return [Batched(tf.tile(batched.tensor, multiples), batched.axis)]


@batches("BroadcastTo")
def broadcasting(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A tensor that is repeated along axes of length one."""
    value, shape = values[0], shape_of(op.outputs[0])
    if isinstance(value, Diagonal):
        axis = value.axis + len(shape) - value.tensor.shape.rank
        if value.tensor.shape[value.axis] == shape[axis]:
            wide = tf.broadcast_to(value.tensor, shape)
            return [value._replace(tensor=wide, axis=axis)]
    tensors, axis = aligned([value], len(shape))
    shape.insert(axis, count)
    return [Batched(tf.broadcast_to(tensors[0], shape), axis)]


@batches("GatherV2")
def gathering(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Entries at indices along an axis."""
    value, indices, axis = values
    if op.get_attr("batch_dims") or not isinstance(value, Batched):
        raise NoRuleError("a gather whose indices differ between examples, or of a diagonal")
    at = int(constant(axis)) % op.inputs[0].shape.rank
    taken = tf.gather(value.tensor, indices, axis=at + (at >= value.axis))
    more = 0 if value.axis <= at else indices.shape.rank - 1
    return [Batched(taken, value.axis + more)]


@batches("UnsortedSegmentSum")
def segment_sum(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Sums of the entries with equal numbers."""
    value, *numbers = values
    if any(map(is_varied, numbers)):
        raise NoRuleError("the segments vary")
    batched = dense(value)
    last = moved(batched, batched.tensor.shape.rank - 1)
    total = run(op, [last.tensor, *numbers])[0]
    shape = [*shape_of(op.outputs[0]), count]
    return [Batched(tf.ensure_shape(total, shape), len(shape) - 1)]


@batches("Cumsum", "ReverseV2")
def along_an_axis(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Operations along axes that are given by number."""
    value, axes = dense(values[0]), constant(values[1])
    rank = value.tensor.shape.rank - 1
    shifted = np.asarray(axes) % rank
    shifted = shifted + (shifted >= value.axis)
    inputs = [value.tensor, tf.constant(shifted, op.inputs[1].dtype)]
    return [Batched(run(op, inputs)[0], value.axis)]


@batches("MatrixBandPart", "MatrixDiag", "MatrixDiagPart", "FFT", "IFFT", "FFT2D", "IFFT2D")
def along_last_axes(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Operations along the last axes, which take any number of axes in front."""
    value, *rest = values
    batched = moved(dense(value), 0)
    return [Batched(run(op, [batched.tensor, *rest])[0], 0)]
