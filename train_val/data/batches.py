from __future__ import annotations

import tensorflow as tf

from train_val.data.augmentation import crop_and_flip, draw_shifts_and_flips
from train_val.data.image_data import ImageData
from train_val.data.order import shuffled_indices

# A batch takes about a millisecond: more threads or a longer queue would only take the
# processor and memory away from training.
_PARALLEL_CALLS = 2
_AHEAD = 2


class Batches:
    """Training batches; batch k is a pure function of the seed and k.

    The images form an endless sequence of epochs, each with its own permutation, and batch k
    is places k * B ... k * B + B - 1 of that sequence: every epoch has each image once, even if
    the batch size does not divide their number (a batch then crosses into the next epoch).
    Shifts and flips are drawn from the seed and k. So a run that was killed continues with
    the very same batches: `dataset(start=k)`.

    Args:
      data: The images; a copy is kept, as uint8.
      batch_size: The batch size B, from 1 to the number of images.
      seed: Any integer of 64 bits; it determines the order and the augmentation.
      training: Whether images may be augmented.
      augment: Whether to pad each image by 4, crop it at random to its size and mirror half of
        the images. None augments in training if the data set asks for it.
      dtype: The dtype of the inputs. They are computed in float32, so that a run in float64 sees
        the same images.
      rollout: None, or T: elements are then T successive batches, with T as a first axis, and
        element k holds batches k * T ... k * T + T - 1.
      channels_first: Whether inputs are [B, channels, height, width].

    Raises:
      ValueError: If a size is out of range, the seed has more than 64 bits, or the dtype is not
        floating.
    """

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        seed: int,
        training: bool = True,
        augment: bool | None = None,
        dtype: tf.DType = tf.float32,
        rollout: int | None = None,
        channels_first: bool = False,
    ) -> None:
        _check_batch_size(batch_size, data)
        if rollout is not None and rollout < 1:
            raise ValueError(f"Expected a rollout of at least 1 batch, or None; got {rollout}.")
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"Expected a seed that fits in 64 bits, got {seed}.")
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.augment = training and (data.augment if augment is None else augment)
        self.rollout = rollout
        self._images = _Images(data, dtype, channels_first)

    @property
    def batches_per_epoch(self) -> float:
        """The number of batches that show every image once; not always a whole number."""
        return len(self.data) / self.batch_size

    def indices(self, k: tf.Tensor | int) -> tf.Tensor:
        """Returns the numbers of the images in batch k, int64 [B]."""
        return shuffled_indices(len(self.data), self.batch_size, self.seed, k)

    def batch(self, k: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns batch k alone, without the pipeline (and without the rollout's axis).

        Args:
          k: The batch's number, from 0.

        Returns:
          The inputs [B, height, width, channels] in the dtype, or channels first, and the labels,
          int32 [B].
        """
        if not self.augment:
            return self._images.gather(self.indices(k))
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(k, tf.int64)])
        shifts, flips = draw_shifts_and_flips(self.batch_size, seed)
        return self._images.gather(self.indices(k), shifts, flips)

    def dataset(self, start: int = 0, steps: int | None = None) -> tf.data.Dataset:
        """Returns the batches from number `start` on, computed ahead of their use.

        Args:
          start: The number of the first element, a batch or, with `rollout`, a rollout.
            `dataset(start=k)` continues where `dataset()` is after k elements.
          steps: The number of elements; None for an endless data set.

        Returns:
          A data set of (inputs, labels) as `batch` returns them, in static shapes; with a rollout
          of T, [T, B, ...] and [T, B].

        Raises:
          ValueError: If start or steps is negative.
        """
        if start < 0 or (steps is not None and steps < 0):
            raise ValueError(
                f"Expected start and steps of at least 0, got start={start} and steps={steps}."
            )
        group = self.rollout or 1
        end = tf.int64.max if steps is None else (start + steps) * group
        dataset = tf.data.Dataset.range(start * group, end)
        dataset = dataset.map(self.batch, num_parallel_calls=_PARALLEL_CALLS, deterministic=True)
        if self.rollout is not None:
            dataset = dataset.batch(self.rollout, drop_remainder=True)
        return dataset.prefetch(_AHEAD)


def test_batches(
    data: ImageData,
    batch_size: int,
    dtype: tf.DType = tf.float32,
    channels_first: bool = False,
) -> tf.data.Dataset:
    """Returns every image once, in order and never augmented, for measuring a network.

    Args:
      data: The images.
      batch_size: The batch size B; the last batch may be smaller.
      dtype: The dtype of the inputs.
      channels_first: Whether inputs are [B, channels, height, width].

    Returns:
      A finite data set of (inputs [B, height, width, channels], labels int32 [B]).

    Raises:
      ValueError: If the batch size is not from 1 to the number of images.
    """
    _check_batch_size(batch_size, data)
    images = _Images(data, dtype, channels_first)
    count = len(data)

    def batch(first: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return images.gather(tf.range(first, tf.minimum(first + batch_size, count)))

    dataset = tf.data.Dataset.range(0, count, batch_size)
    return dataset.map(batch, num_parallel_calls=_PARALLEL_CALLS).prefetch(_AHEAD)


test_batches.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


class _Images:
    """Holds the images as tensors; gathers and standardises batches of them."""

    def __init__(self, data: ImageData, dtype: tf.DType, channels_first: bool) -> None:
        self.dtype = tf.as_dtype(dtype)
        if not self.dtype.is_floating:
            raise ValueError(f"Expected a floating dtype for the inputs, got {self.dtype.name}.")
        self.mean, self.std = data.pixel_mean, data.pixel_std
        self.channels_first = channels_first
        # Eager tensors are captured by the functions of tf.data and not copied into their graphs.
        with tf.device("CPU"):
            self.pixels = tf.constant(data.images)
            self.labels = tf.constant(data.labels)

    def gather(
        self,
        indices: tf.Tensor,
        shifts: tf.Tensor | None = None,
        flips: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the images with these numbers (int64 [B]), cropped and mirrored if given."""
        inputs = tf.gather(self.pixels, indices)
        if shifts is not None:
            inputs = crop_and_flip(inputs, shifts, flips)
        inputs = tf.cast(inputs, tf.float32)
        if self.mean is None:
            inputs = tf.image.per_image_standardization(inputs)
        else:
            inputs = (inputs - self.mean) / self.std
        if self.channels_first:
            inputs = tf.transpose(inputs, [0, 3, 1, 2])
        return tf.cast(inputs, self.dtype), tf.gather(self.labels, indices)


def _check_batch_size(batch_size: int, data: ImageData) -> None:
    if not 1 <= batch_size <= len(data):
        raise ValueError(
            f"Expected a batch size from 1 to {len(data)}, the number of images of {data.name};"
            f" got {batch_size}."
        )
