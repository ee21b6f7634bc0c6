"""The linear map that takes one entry of each window, and its transpose.

The entry is stored as one byte per window. Both directions read it and write their result once,
whereas a mask and a pooling pass over the tangent twice, and TensorFlow's own kernels search for
the maximum in every product. The kernels are compiled by XLA, which pays off for large tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op.linear_maps.held_gradients import custom_gradient
from custom_op.linear_maps.paired import shaped, unwanted

# A tensor and its gradient, as `tf.custom_gradient` takes them.
_Result = tuple[tf.Tensor, Callable[..., Any]]


def first_maxima(
    values: tf.Tensor, pooled: tf.Tensor, window: Sequence[int], positive: bool
) -> tf.Tensor:
    """Returns the offset of the first maximum of each window.

    Args:
      values: The pooled tensor, [B, H, W, C], static.
      pooled: The maxima, [B, H // height, W // width, C].
      window: The height and width of a window; windows tile H and W from the upper left, and a
        remainder at the other edges belongs to none.
      positive: Whether windows without a positive maximum get no offset.

    Returns:
      uint8 like `pooled`: the offset within the window, row by row; height · width for none.
    """
    height, width = window
    return _first_maxima(values, pooled, height, width, positive)


def selection(
    chosen: tf.Tensor, window: Sequence[int], shape: tf.TensorShape
) -> Callable[..., tf.Tensor]:
    """Returns the map from t to the chosen entries of t + s.

    Args:
      chosen: The result of `first_maxima`; a constant for every derivative.
      window: The height and width of a window, as in `first_maxima`.
      shape: The static shape of t, [B, H, W, C].

    Returns:
      A function of t and optionally of s, [C], the tangent of a bias; it returns a tensor like
      `chosen`, zero where no entry is chosen, and is differentiable to any order.
    """
    height, width = window

    @custom_gradient
    def take(tangent: tf.Tensor) -> _Result:
        if unwanted():
            return tf.zeros(chosen.shape, tangent.dtype), spread
        zero = tf.zeros(shape[3:], tangent.dtype)
        return shaped(_take(tangent, zero, chosen, height, width), chosen.shape), spread

    @custom_gradient
    def spread(cotangent: tf.Tensor) -> _Result:
        wide = _spread(cotangent, chosen, height, width, shape[1], shape[2])
        return shaped(wide, shape), take

    @custom_gradient
    def take_with_bias(tangent: tf.Tensor, bias: tf.Tensor) -> _Result:
        def vjp(cotangent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            wide = spread(cotangent)
            return wide, tf.raw_ops.BiasAddGrad(out_backprop=wide)

        if unwanted():
            return tf.zeros(chosen.shape, tangent.dtype), vjp
        return shaped(_take(tangent, bias, chosen, height, width), chosen.shape), vjp

    return lambda t, s=None: take(t) if s is None else take_with_bias(t, s)


def _parts(values: tf.Tensor, height: int, width: int) -> list[tf.Tensor]:
    """Returns, for each offset in a window, that entry of all windows."""
    rows, columns = (values.shape[1] // height * height, values.shape[2] // width * width)
    return [values[:, i:rows:height, j:columns:width] for i in range(height) for j in range(width)]


@tf.function(jit_compile=True, autograph=False)
def _first_maxima(
    values: tf.Tensor, pooled: tf.Tensor, height: int, width: int, positive: bool
) -> tf.Tensor:
    parts = _parts(values, height, width)
    chosen = tf.fill(pooled.shape, tf.constant(len(parts), tf.uint8))
    # Backwards, so that the first maximum is set last.
    for place in reversed(range(len(parts))):
        chosen = tf.where(parts[place] == pooled, tf.constant(place, tf.uint8), chosen)
    if positive:
        chosen = tf.where(pooled > 0, chosen, tf.constant(len(parts), tf.uint8))
    return chosen


@tf.function(jit_compile=True, autograph=False)
def _take(
    tangent: tf.Tensor, bias: tf.Tensor, chosen: tf.Tensor, height: int, width: int
) -> tf.Tensor:
    zero = tf.zeros([], tangent.dtype)
    return tf.add_n(
        [
            tf.where(chosen == tf.constant(place, tf.uint8), part + bias, zero)
            for place, part in enumerate(_parts(tangent, height, width))
        ]
    )


@tf.function(jit_compile=True, autograph=False)
def _spread(
    cotangent: tf.Tensor,
    chosen: tf.Tensor,
    height: int,
    width: int,
    full_rows: int,
    full_columns: int,
) -> tf.Tensor:
    batch, rows, columns, channels = chosen.shape
    places = np.arange(height * width, dtype=np.uint8).reshape(1, 1, height, 1, width, 1)
    wide = tf.where(
        chosen[:, :, None, :, None] == tf.constant(places),
        cotangent[:, :, None, :, None],
        tf.zeros([], cotangent.dtype),
    )
    wide = tf.reshape(wide, [batch, rows * height, columns * width, channels])
    left = [full_rows - rows * height, full_columns - columns * width]
    return tf.pad(wide, [[0, 0], [0, left[0]], [0, left[1]], [0, 0]]) if any(left) else wide
