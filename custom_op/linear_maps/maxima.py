"""The indices of the maxima of pooling windows, and the linear maps that they define.

TensorFlow's kernels for the derivative of a pooling's gradient, `MaxPoolGradGrad` and its siblings,
zero the buffer of the tangent before they read it, whenever they may reuse that buffer for their
result: if nothing else holds the tangent and the pooled tensor has as many entries as the values.
So they are not used here. The index of each maximum is found once, and a product is a gather by
these indices; its transpose sums over the windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Size = Any  # an int if it is known, else a scalar tensor


class Windows(NamedTuple):
    """The windows of a pooling; all lists have one entry per axis of the input.

    Attributes:
      sizes: The sizes of a window.
      strides: The distances between windows.
      padding: `"SAME"`, `"VALID"` or `"EXPLICIT"`.
      explicit: The padding before and after, for `"EXPLICIT"`.
    """

    sizes: Sequence[int]
    strides: Sequence[int]
    padding: str
    explicit: Sequence[tuple[int, int]] = ()


def first_places(values: tf.Tensor, windows: Windows) -> tf.Tensor:
    """Returns the index of the first maximum of each window, in the order of the axes.

    TensorFlow's gradient of the pooling gives all of a cotangent to this entry.

    Args:
      values: The pooled tensor; real, of known rank.
      windows: The windows of the pooling.

    Returns:
      A tensor like the result of the pooling, of indices into `values` as one vector; int32, or
      int64 if `values` is large or its size unknown.
    """
    count = values.shape.num_elements()
    dtype = tf.int64 if count is None or count >= 2**31 else tf.int32
    best = tf.stop_gradient(values)
    rank, shape = values.shape.rank, _shape(values)
    places, step = tf.zeros([1] * rank, dtype), 1
    # Axis by axis from the last: `places` are indices within the axes done so far.
    for axis in reversed(range(rank)):
        numbers = tf.range(tf.cast(shape[axis], dtype)) * tf.cast(step, dtype)
        places = places + tf.reshape(numbers, [1] * axis + [-1] + [1] * (rank - axis - 1))
        if windows.sizes[axis] > 1 or windows.strides[axis] > 1 or _padded(windows, axis):
            best, places = _first_along(best, places, axis, shape[axis], windows)
        step = step * shape[axis]
    return places


def _padded(windows: Windows, axis: int) -> bool:
    return windows.padding == "EXPLICIT" and any(windows.explicit[axis])


def take(values: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Returns the entries at indices; linear, and differentiable to any order."""
    return tf.gather(tf.reshape(values, [-1]), places)


def put(values: tf.Tensor, places: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns zeros with the values added at indices, the transpose of `take`.

    Args:
      values: The values, of the shape of `places`.
      places: Indices into `like` as one vector.
      like: A tensor of the result's shape.

    Returns:
      A tensor like `like`.
    """
    shape = _shape(like)
    flat = tf.math.unsorted_segment_sum(
        tf.reshape(values, [-1]), tf.reshape(places, [-1]), math.prod(shape)
    )
    result = tf.reshape(flat, shape)
    result.set_shape(like.shape)
    return result


def _first_along(
    values: tf.Tensor, places: tf.Tensor, axis: int, size: Size, windows: Windows
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first maximum of each window along one axis, and the entry of `places` there."""
    window, stride = windows.sizes[axis], windows.strides[axis]
    before, count = _outline(windows, axis, size)
    # Blocks of one stride each: an offset in the windows is then a plain slice.
    blocks = count + (window - 1) // stride
    values = _blocks(values, axis, size, before, blocks, stride, values.dtype.min)
    places = _blocks(places, axis, size, before, blocks, stride, -1)
    best = at = None
    for i in range(window):
        here, there = (_part(each, axis, i, stride, count) for each in (values, places))
        if at is None:
            best, at = here, there
        else:
            # The padding, at -1, is never a maximum.
            better = (there >= 0) & ((here > best) | (at < 0))
            best, at = tf.where(better, here, best), tf.where(better, there, at)
    return best, at


def _outline(windows: Windows, axis: int, size: Size) -> tuple[Size, Size]:
    """Returns the leading padding along an axis, and the number of windows."""
    window, stride = windows.sizes[axis], windows.strides[axis]
    if windows.padding == "SAME":
        count = (size + stride - 1) // stride
        missing = (count - 1) * stride + window - size
        missing = max(missing, 0) if isinstance(missing, int) else tf.maximum(missing, 0)
        return missing // 2, count
    before, after = windows.explicit[axis] if windows.padding == "EXPLICIT" else (0, 0)
    return before, (size + before + after - window) // stride + 1


def _blocks(
    tensor: tf.Tensor,
    axis: int,
    size: Size,
    before: Size,
    blocks: Size,
    stride: int,
    filler: float,
) -> tf.Tensor:
    """Pads or crops an axis to whole blocks, and splits it into blocks and offsets in them."""
    rank, length = tensor.shape.rank, blocks * stride
    after = length - before - size
    known = isinstance(after, int)
    pads = [[0, 0] for _ in range(rank)]
    pads[axis] = [before, max(after, 0) if known else tf.maximum(after, 0)]
    if not known or any(pads[axis]):
        tensor = tf.pad(tensor, pads, constant_values=tf.cast(filler, tensor.dtype))
    if not known or after < 0:
        tensor = tensor[(*[slice(None)] * axis, slice(0, length))]
    shape = _shape(tensor)
    return tf.reshape(tensor, [*shape[:axis], blocks, stride, *shape[axis + 1 :]])


def _part(blocks: tf.Tensor, axis: int, place: int, stride: int, count: Size) -> tf.Tensor:
    """Returns the entry at one offset of every window."""
    first = place // stride
    return blocks[(*[slice(None)] * axis, slice(first, first + count), place % stride)]


def _shape(tensor: tf.Tensor) -> list[Size]:
    """Returns the sizes of a tensor, as ints if they are known."""
    known = tensor.shape.as_list()
    if None not in known:
        return known
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(known)]
