"""Turns stored photographs into the squares that a network sees."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

# Mean and deviation of ImageNet's pixels, red, green and blue, from 0 to 255.
MEAN = (123.68, 116.779, 103.939)
STD = (58.393, 57.12, 57.375)
# The share of the image's shorter side that a test shows: 224 of 256 pixels.
CENTRAL = 0.875
# Random crops, as in training for ImageNet since Inception: ranges of the share of the area and of
# width by height; if boxes of objects are known, the crop covers at least this share of one.
_AREAS = (0.05, 1.0)
_ASPECTS = (3 / 4, 4 / 3)
_COVERED = 0.1
# The factors by which JPEG decoders scale down at a lower cost than decoding everything.
_SCALES = (1, 2, 4, 8)


def random_square(
    encoded: tf.Tensor,
    boxes: tf.Tensor,
    seed: tf.Tensor,
    size: int,
    *,
    jpeg_only: bool = False,
    scaled: bool = True,
) -> tf.Tensor:
    """Returns a random part of an image, 5% to 100% of its area, 3:4 to 4:3, as a square.

    Args:
      encoded: The content of a JPEG or PNG file, a string. Greyscale and CMYK become RGB.
      boxes: The boxes of objects, float32 [1, n, 4]; a crop contains a tenth of one, if any.
      seed: The seed, int64 [2], which determines the crop.
      size: The square's side.
      jpeg_only: Whether a file that is not a JPEG is an error, which saves time.
      scaled: Whether the decoder scales large images down, which saves time if most are at least
        twice as large as the square, and costs time if they are not.

    Returns:
      The square, float32 [size, size, 3], from 0 to 255.
    """

    def choose(shape: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            boxes,
            seed,
            min_object_covered=_COVERED,
            aspect_ratio_range=_ASPECTS,
            area_range=_AREAS,
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], extent[:2]], 0)

    return _resized_part(encoded, choose, size, jpeg_only, scaled, exact=False)


def begins_well(encoded: tf.Tensor) -> bool:
    """Whether the first pixel of a JPEG file can be decoded, without which no crop can be."""
    if not bool(tf.io.is_jpeg(encoded)):
        return False
    try:
        tf.image.decode_and_crop_jpeg(encoded, [0, 0, 1, 1], channels=3)
    except tf.errors.OpError:
        return False
    return True


def central_square(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the middle of an image, 87.5% of the shorter side in both directions.

    Args:
      encoded: The content of a file, as for `random_square`.
      size: The square's side.

    Returns:
      The square, float32 [size, size, 3], from 0 to 255.
    """

    def choose(shape: tf.Tensor) -> tf.Tensor:
        shorter = tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)
        side = tf.maximum(tf.cast(tf.round(CENTRAL * shorter), tf.int32), 1)
        return tf.stack([(shape[0] - side) // 2, (shape[1] - side) // 2, side, side])

    return _resized_part(encoded, choose, size, jpeg_only=False, scaled=True, exact=True)


def standardize(images: tf.Tensor) -> tf.Tensor:
    """Subtracts the mean and divides by the deviation of ImageNet's pixels, colour by colour.

    Args:
      images: The images, float32 [B, size, size, 3], from 0 to 255.

    Returns:
      The standardised images, of the same shape.
    """
    # Rows of all pixels: broadcasting along an axis of 3 is several times slower.
    pixels = images.shape[1] * images.shape[2]
    rows = tf.reshape(images, [-1, 3 * pixels])
    factor = tf.constant(np.tile(1 / np.array(STD, np.float32), pixels))
    shift = tf.constant(np.tile(-np.array(MEAN, np.float32) / np.array(STD, np.float32), pixels))
    return tf.reshape(rows * factor + shift, [-1, *images.shape[1:]])


def _resized_part(
    encoded: tf.Tensor,
    choose: Callable[..., Any],
    size: int,
    jpeg_only: bool,
    scaled: bool,
    exact: bool,
) -> tf.Tensor:
    """Decodes the window that `choose` returns for a shape, and resizes it."""

    # Unless it is exact, the window's edges move to whole pixels of the scale that is decoded, by
    # half of one of the square's pixels at most, and resizing averages 2 x 2 pixels.
    def from_jpeg() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        shape = tf.io.extract_jpeg_shape(encoded)
        window = choose(shape)
        # Only the window is decoded, at the smallest scale that is not below the square's: pixels
        # that the decoder averages cost less than decoding them.
        smaller = tf.minimum(window[2], window[3])
        number = tf.reduce_sum([tf.cast(smaller >= s * size, tf.int32) for s in _SCALES[1:]])

        def decode(scale: int) -> Callable[[], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
            def decoded() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
                begin = (window[:2] + (0 if exact else scale // 2)) // scale
                whole = -(-shape[:2] // scale)
                end = window[:2] + window[2:] + (scale - 1 if exact else scale // 2)
                end = tf.minimum(end // scale, whole)
                part = tf.image.decode_and_crop_jpeg(
                    encoded,
                    tf.concat([begin, end - begin], 0),
                    channels=3,
                    ratio=scale,
                    fancy_upscaling=False,
                    dct_method="INTEGER_FAST",
                )
                # The place of the window in the decoded part, which has whole pixels only.
                window_begin = tf.cast(window[:2], tf.float32) / scale - tf.cast(begin, tf.float32)
                return part, window_begin, tf.cast(window[2:], tf.float32) / scale

            return decoded

        if not scaled:
            return decode(1)()
        return tf.switch_case(number, [decode(scale) for scale in _SCALES])

    def from_another() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # ImageNet contains a PNG file with the name of a JPEG.
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        window = choose(tf.shape(image))
        part = image[window[0] : window[0] + window[2], window[1] : window[1] + window[3]]
        return part, tf.zeros([2]), tf.cast(window[2:], tf.float32)

    if jpeg_only:
        part, begin, extent = from_jpeg()
    else:
        part, begin, extent = tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_another)
    if exact:
        # The op of tf.image.resize(antialias=True), for a window whose edges lie between pixels.
        squares = tf.raw_ops.ScaleAndTranslate(
            images=part[tf.newaxis],
            size=[size, size],
            scale=size / extent,
            translation=-begin * size / extent,
            kernel_type="triangle",
            antialias=True,
        )
    else:
        squares = tf.raw_ops.ResizeBilinear(
            images=part[tf.newaxis], size=[size, size], half_pixel_centers=True
        )
    return tf.ensure_shape(squares[0], [size, size, 3])


def shorter_sides(encoded: list[bytes]) -> list[int]:
    """Returns the shorter sides of JPEG files in pixels; other files are left out."""
    sides = []
    for content in encoded:
        with contextlib.suppress(tf.errors.OpError):
            sides.append(int(tf.reduce_min(tf.io.extract_jpeg_shape(content)[:2])))
    return sides
