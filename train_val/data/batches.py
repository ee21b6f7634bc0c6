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
    """Training batches, of which number k is a pure function of the seed and k.

    The images pass in an endless row of epochs, each a permutation of its own, and batch k
    is places k * B ... k * B + B - 1 of that row: every image comes once an epoch, also where
    the batch size does not divide their number (a batch then crosses into the next epoch).
    Shifts and flips are drawn from the seed and k. So a run that was killed continues with
    the very same batches: `dataset(start=k)`.

    Args:
      data: What the batches are made of; a copy is kept, as uint8.
      batch_size: B, from 1 to the number of images.
      seed: Any integer of 64 bits; another one is another order and other augmentation.
      training: Whether images may be augmented (default True).
      augment: Pads each image by 4, crops it at random to its size, mirrors half of them.
        None (the default): as the data set has it, when training.
      dtype: Of the inputs (default float32). They are computed in float32, so that a run
        in float64 sees the same images.
      rollout: None (the default), or T: elements are T successive batches, with T as a
        first axis, and element k holds batches k * T ... k * T + T - 1.
      channels_first: Inputs as [B, channels, height, width] (default False).

    Raises:
      ValueError: A size out of range, a seed of more than 64 bits, or a dtype that is not
        a floating one.
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
        """How many batches show every image once; not always a whole number."""
        return len(self.data) / self.batch_size

    def indices(self, k: tf.Tensor | int) -> tf.Tensor:
        """The numbers of the images in batch k, int64 [B]."""
        return shuffled_indices(len(self.data), self.batch_size, self.seed, k)

    def batch(self, k: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
        """Batch k by itself, without the pipeline (and without the rollout's axis).

        Args:
          k: The batch's number, from 0.

        Returns:
          inputs: [B, height, width, channels] of the dtype, or channels first.
          labels: int32 [B].
        """
        if not self.augment:
            return self._images.gather(self.indices(k))
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(k, tf.int64)])
        shifts, flips = draw_shifts_and_flips(self.batch_size, seed)
        return self._images.gather(self.indices(k), shifts, flips)

    def dataset(self, start: int = 0, steps: int | None = None) -> tf.data.Dataset:
        """The batches from number `start` on, computed ahead of who asks for them.

        Args:
          start: The first element's number (default 0): of a batch, or of a rollout where
            there is one. `dataset(start=k)` continues where `dataset()` is after k.
          steps: How many elements (default None: without end).

        Returns:
          (inputs, labels) as `batch` gives them, in static shapes; with a rollout of T
          [T, B, ...] and [T, B].

        Raises:
          ValueError: Start or steps is negative.
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
    """Every image once, in its order and never augmented: to measure a network on.

    Args:
      data: The images.
      batch_size: B; the last batch holds what is left and may be smaller.
      dtype: Of the inputs (default float32).
      channels_first: Inputs as [B, channels, height, width] (default False).

    Returns:
      A finite data set of (inputs [B, height, width, channels], labels int32 [B]).

    Raises:
      ValueError: The batch size is not from 1 to the number of images.
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
    """The images as tensors, and how a batch of them is taken and standardised."""

    def __init__(self, data: ImageData, dtype: tf.DType, channels_first: bool) -> None:
        self.dtype = tf.as_dtype(dtype)
        if not self.dtype.is_floating:
            raise ValueError(f"Expected a floating dtype for the inputs, got {self.dtype.name}.")
        self.mean, self.std = data.pixel_mean, data.pixel_std
        self.channels_first = channels_first
        # Eager tensors, which a tf.data function captures: nothing of them is in its graph.
        with tf.device("CPU"):
            self.pixels = tf.constant(data.images)
            self.labels = tf.constant(data.labels)

    def gather(
        self,
        indices: tf.Tensor,
        shifts: tf.Tensor | None = None,
        flips: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The images of these numbers (int64 [B]), cropped and mirrored if that is given."""
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
