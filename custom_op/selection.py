"""The linear map that takes one entry of each window, and its transpose.

Both directions read the mask and write their result once; as a product and an average pooling they
pass over the tangent twice. TensorFlow has no such kernel: where tensors are large, and the time of
a compilation pays, XLA makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

COMPILED_FROM = 2**16  # entries of the tangent


def selection(mask: tf.Tensor, window: Sequence[int]) -> Callable[..., tf.Tensor]:
    """Returns the map from t to the sums over windows of mask ⊙ (t + s).

    Args:
      mask: bool [B, H, W, C]; a constant for every derivative. H, W and C are static.
      window: Height and width of a window; windows tile H and W from the upper left, and what is
        left over at the other edges belongs to none.

    Returns:
      A function of t, [B, H, W, C], and optionally of s, [C], the tangent of a bias; it returns
      [B, H // height, W // width, C] and is differentiable to any order.
    """
    height, width = window
    size = mask.shape.num_elements()
    if size is None or size < COMPILED_FROM:
        return _uncompiled(mask, height, width)

    # TensorFlow's optimizer does not look into what XLA compiles. Unless told the shape, it
    # computes a result of which a gradient wants nothing but the shape.
    wide_shape = mask.shape
    shape = [wide_shape[0], wide_shape[1] // height, wide_shape[2] // width, wide_shape[3]]

    def shaped(value, shape):
        return tf.raw_ops.EnsureShape(input=value, shape=shape)

    @tf.custom_gradient
    def take(tangent):
        zero = tf.zeros(wide_shape[3:], tangent.dtype)
        return shaped(_take(tangent, zero, mask, height, width), shape), spread

    @tf.custom_gradient
    def spread(cotangent):
        return shaped(_spread(cotangent, mask, height, width), wide_shape), take

    @tf.custom_gradient
    def take_with_bias(tangent, bias):
        def vjp(cotangent):
            wide = spread(cotangent)
            return wide, tf.raw_ops.BiasAddGrad(out_backprop=wide)

        return shaped(_take(tangent, bias, mask, height, width), shape), vjp

    return lambda t, s=None: take(t) if s is None else take_with_bias(t, s)


def _uncompiled(mask, height, width):
    sizes = [1, height, width, 1]

    def take(tangent, bias=None):
        if bias is not None:
            tangent = tf.nn.bias_add(tangent, bias)
        kept = tf.cast(mask, tangent.dtype) * tangent
        return height * width * tf.nn.avg_pool2d(kept, sizes, sizes, "VALID")

    return take


@tf.function(jit_compile=True, autograph=False)
def _take(tangent, bias, mask, height, width):
    kept = tf.where(mask, tangent + bias, tf.zeros_like(tangent))
    rows, columns = _covered(mask, height, width)
    return tf.add_n(
        [kept[:, i:rows:height, j:columns:width] for i in range(height) for j in range(width)]
    )


@tf.function(jit_compile=True, autograph=False)
def _spread(cotangent, mask, height, width):
    batch, full_rows, full_columns, channels = mask.shape
    rows, columns = _covered(mask, height, width)
    wide = tf.broadcast_to(
        cotangent[:, :, None, :, None],
        [batch, rows // height, height, columns // width, width, channels],
    )
    wide = tf.reshape(wide, [batch, rows, columns, channels])
    wide = tf.pad(wide, [[0, 0], [0, full_rows - rows], [0, full_columns - columns], [0, 0]])
    return tf.where(mask, wide, tf.zeros_like(wide))


def _covered(mask, height, width):
    """Rows and columns that windows cover."""
    return mask.shape[1] // height * height, mask.shape[2] // width * width
