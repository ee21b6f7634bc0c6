from __future__ import annotations

import tensorflow as tf

PADDING = 4
_OFFSETS = 2 * PADDING + 1  # 0 ... 8 in each direction


def draw_shifts_and_flips(batch_size: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws how each image of a batch is shifted and mirrored, as a pure function of the seed.

    Args:
      batch_size: The number of images, B.
      seed: The seed, int64 [2].

    Returns:
      The shifts, int32 [B, 2]: the upper left corner (row, column) of the crop in the padded
      image, each uniform on 0 ... 8, where (4, 4) moves nothing. And the flips, bool [B]: whether
      the crop is mirrored left to right, with probability 1/2.
    """
    # One draw for all three: its lowest bit is the flip, the rest the corner.
    choice = tf.random.stateless_uniform([batch_size], seed, 0, _OFFSETS**2 * 2, tf.int32)
    corner = choice // 2
    shifts = tf.stack([corner // _OFFSETS, corner % _OFFSETS], axis=1)
    return shifts, choice % 2 == 1


def crop_and_flip(images: tf.Tensor, shifts: tf.Tensor, flips: tf.Tensor) -> tf.Tensor:
    """Pads with 4 zeros on every side, crops to the original size, and mirrors.

    Args:
      images: The images [B, height, width, channels], with static height, width and channels.
      shifts: The beginnings of the crops in the padded images, 0 ... 8, int32 [B, 2].
      flips: Whether each crop is mirrored left to right, bool [B].

    Returns:
      Images with the shape and dtype of `images`.
    """
    height, width, channels = images.shape[1:]
    # The row and the column of the original that each pixel comes from. Nothing is really padded:
    # pixels outside are read from somewhere inside and then set to 0.
    rows = tf.range(height) + shifts[:, :1] - PADDING  # [B, height]
    columns = tf.range(width)
    columns = tf.where(flips[:, tf.newaxis], width - 1 - columns, columns)
    columns = columns + shifts[:, 1:] - PADDING  # [B, width]
    inside_rows = (rows >= 0) & (rows < height)
    inside_columns = (columns >= 0) & (columns < width)
    inside = inside_rows[:, :, tf.newaxis] & inside_columns[:, tf.newaxis, :]
    rows = tf.clip_by_value(rows, 0, height - 1)
    columns = tf.clip_by_value(columns, 0, width - 1)
    positions = rows[:, :, tf.newaxis] * width + columns[:, tf.newaxis, :]
    pixels = tf.reshape(images, [-1, height * width, channels])
    moved = tf.gather(pixels, positions, batch_dims=1)  # [B, height, width, channels]
    return tf.where(inside[..., tf.newaxis], moved, tf.zeros([], images.dtype))
