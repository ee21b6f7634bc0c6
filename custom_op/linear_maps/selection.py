"""The linear map that takes one entry of each window, and its transpose.

Which entry is kept as one byte a window. Both directions read it and write their result once; a
mask and a pooling pass over the tangent twice, and TensorFlow's own kernels search for the maximum
at every product. XLA makes the kernels, so that they are for large tensors, where the time of a
compilation pays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from custom_op.linear_maps.held_gradients import custom_gradient
from custom_op.linear_maps.paired import shaped, unwanted


def first_maxima(
    values: tf.Tensor, pooled: tf.Tensor, window: Sequence[int], positive: bool
) -> tf.Tensor:
    """Returns where the first maximum of each window stands.

    Args:
      values: [B, H, W, C], static.
      pooled: Their maxima, [B, H // height, W // width, C].
      window: Height and width of a window; windows tile H and W from the upper left, and what is
        left over at the other edges belongs to none.
      positive: Whether windows whose maximum is not positive have none.

    Returns:
      uint8 like `pooled`: the place within the window, row by row; height · width for none.
    """
    height, width = window
    return _first_maxima(values, pooled, height, width, positive)


def selection(
    chosen: tf.Tensor, window: Sequence[int], shape: tf.TensorShape
) -> Callable[..., tf.Tensor]:
    """Returns the map from t to the chosen entries of t + s.

    Args:
      chosen: As `first_maxima` gives it; a constant for every derivative.
      window: As for `first_maxima`.
      shape: That of t, [B, H, W, C], static.

    Returns:
      A function of t and optionally of s, [C], the tangent of a bias; it returns a tensor like
      `chosen`, zero where none is, and is differentiable to any order.
    """
    height, width = window

    @custom_gradient
    def take(tangent):
        if unwanted():
            return tf.zeros(chosen.shape, tangent.dtype), spread
        zero = tf.zeros(shape[3:], tangent.dtype)
        return shaped(_take(tangent, zero, chosen, height, width), chosen.shape), spread

    @custom_gradient
    def spread(cotangent):
        wide = _spread(cotangent, chosen, height, width, shape[1], shape[2])
        return shaped(wide, shape), take

    @custom_gradient
    def take_with_bias(tangent, bias):
        def vjp(cotangent):
            wide = spread(cotangent)
            return wide, tf.raw_ops.BiasAddGrad(out_backprop=wide)

        if unwanted():
            return tf.zeros(chosen.shape, tangent.dtype), vjp
        return shaped(_take(tangent, bias, chosen, height, width), chosen.shape), vjp

    return lambda t, s=None: take(t) if s is None else take_with_bias(t, s)


def _parts(values, height, width):
    """Returns the entry at each place of all windows."""
    rows, columns = (values.shape[1] // height * height, values.shape[2] // width * width)
    return [values[:, i:rows:height, j:columns:width] for i in range(height) for j in range(width)]


@tf.function(jit_compile=True, autograph=False)
def _first_maxima(values, pooled, height, width, positive):
    parts = _parts(values, height, width)
    chosen = tf.fill(pooled.shape, tf.constant(len(parts), tf.uint8))
    # The last one that is set is the first maximum.
    for place in reversed(range(len(parts))):
        chosen = tf.where(parts[place] == pooled, tf.constant(place, tf.uint8), chosen)
    if positive:
        chosen = tf.where(pooled > 0, chosen, tf.constant(len(parts), tf.uint8))
    return chosen


@tf.function(jit_compile=True, autograph=False)
def _take(tangent, bias, chosen, height, width):
    zero = tf.zeros([], tangent.dtype)
    return tf.add_n(
        [
            tf.where(chosen == tf.constant(place, tf.uint8), part + bias, zero)
            for place, part in enumerate(_parts(tangent, height, width))
        ]
    )


@tf.function(jit_compile=True, autograph=False)
def _spread(cotangent, chosen, height, width, full_rows, full_columns):
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
