from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from train_val.data import photographs
from train_val.data.image_data import DataError
from train_val.data.order import shuffled_indices
from train_val.data.stored_images import StoredImages

_AHEAD = 2
# The number of images that show whether those of a data set are large.
_MEASURED = 16
# A larger share of damaged images means not a few bad files but a bad data set.
_LARGEST_DAMAGE = 0.05
_ALWAYS_BORNE = 10
# Errors that TensorFlow raises about an image, not about a mistake in the pipeline itself.
_ABOUT_DATA = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.OutOfRangeError,
    tf.errors.UnimplementedError,
    tf.errors.UnknownError,
)


def too_many_damaged(damaged: int, images: int) -> bool:
    """Whether so many of a data set's images are damaged that all of it counts as damaged."""
    return damaged > max(_ALWAYS_BORNE, _LARGEST_DAMAGE * images) or damaged == images


class LeftOut:
    """The images of a data set that can't be decoded: found in use, reported once, counted.

    Attributes:
      numbers: The numbers of the images, in the order found.
      cut_short: The numbers among them of truncated files, whose top can still be decoded.
      others: The numbers of images that are not JPEG files, for which a pipeline takes more time.
    """

    def __init__(self, data: StoredImages) -> None:
        self._data = data
        self.numbers: list[int] = []
        self.cut_short: set[int] = set()
        self.others: list[int] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def find(self, indices: np.ndarray) -> int:
        """Looks for images that can't be decoded, reports their names and notes them.

        Args:
          indices: The numbers of the images to look at.

        Returns:
          The number of images newly found to be left out, or not to be JPEG files.

        Raises:
          DataError: If a label is out of range, a file is gone, or too many images are damaged.
        """
        before = len(self) + len(self.others)
        for index in sorted(set(indices.tolist()).difference(self.numbers, self.others)):
            if not self._decodes(index):
                self.numbers.append(index)
                tqdm.tqdm.write(
                    f"Left out: {self._data.source.describe(index)} can't be decoded"
                    f" ({len(self)} left out so far)."
                )
        if too_many_damaged(len(self), len(self._data)):
            raise DataError(
                f"Expected {self._data.name} with a few damaged images at most, found {len(self)}"
                " that can't be decoded: copy the data set anew."
            )
        return len(self) + len(self.others) - before

    def _decodes(self, index: int) -> bool:
        source = self._data.source
        name = source.describe(index)
        fetched = source.fetch(tf.constant([index], tf.int64))
        try:
            encoded, label, _ = source.parse(*(tensor[0] for tensor in fetched))
        except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError) as error:
            raise DataError(
                f"Expected to read {name}, could not: {error.message.splitlines()[0]}; copy it"
                " anew, or start again without it."
            ) from error
        except tf.errors.OpError:
            return False  # a record that is not an example
        if not 0 <= int(label) < self._data.num_classes:
            raise DataError(
                f"Expected labels of {self._data.num_classes} classes in {self._data.name}, found"
                f" {int(label)} (counted from 0) in {name}: give the right number of classes, or"
                " the data set that has so many."
            )
        try:
            # The whole image: random crops reach every row.
            tf.io.decode_image(encoded, channels=3, expand_animations=False)
            photographs.central_square(encoded, self._data.image_size)
        except (*_ABOUT_DATA, ValueError):
            if photographs.begins_well(encoded):
                self.cut_short.add(index)
            return False
        if not bool(tf.io.is_jpeg(encoded)):
            self.others.append(index)
        return True


class StoredBatches:
    """Training batches of stored images; batch k is a pure function of the seed and k.

    Order and resuming are those of `Batches`: an endless sequence of epochs, each with its own
    permutation; `dataset(start=k)` has the very batches that `dataset()` has after k. Each image is
    cropped and mirrored at random, by the seed and its place in the sequence. An image that can't
    be decoded is replaced by the next one that can, wherever training begins; a truncated file is
    replaced only in batches whose crop reaches the missing part.

    Attributes:
      data: The images.
      batch_size: The batch size B.
      seed: The seed of the order, the crops and the flips.
      left_out: The images found so far that can't be decoded.
    """

    def __init__(
        self,
        data: StoredImages,
        batch_size: int,
        seed: int,
        dtype: tf.DType = tf.float32,
        channels_first: bool = False,
    ) -> None:
        """Sets the batches up; a few images are read to find their size.

        Args:
          data: The images.
          batch_size: The batch size B, from 1 to the number of images.
          seed: Any integer of 64 bits.
          dtype: The dtype of the inputs.
          channels_first: Whether inputs are [B, channels, height, width].

        Raises:
          ValueError: If a size is out of range, the seed has more than 64 bits, or the dtype is
            not floating.
        """
        _check_batch_size(batch_size, data)
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"Expected a seed that fits in 64 bits, got {seed}.")
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.left_out = LeftOut(data)
        # The batches that a truncated file has stopped; in others its intact part is used.
        self._stopped: set[int] = set()
        self._finish = _finisher(dtype, channels_first)
        self._large = _are_large(data)

    @property
    def batches_per_epoch(self) -> float:
        """The number of batches that show every image once; not always a whole number."""
        return len(self.data) / self.batch_size

    def indices(self, k: tf.Tensor | int) -> tf.Tensor:
        """Returns the numbers of the images in batch k before any is left out, int64 [B]."""
        return shuffled_indices(len(self.data), self.batch_size, self.seed, k)

    def dataset(
        self, start: int = 0, steps: int | None = None
    ) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Returns the batches from number `start` on, read and decoded ahead of their use.

        Args:
          start: The number of the first batch.
          steps: The number of batches; None for endless ones.

        Returns:
          An iterator over (inputs, labels): inputs [B, size, size, 3] of the dtype, or channels
          first, and labels int32 [B].

        Raises:
          ValueError: If start or steps is negative.
          DataError: In use, if labels or files are wrong; `LeftOut.find` says when.
        """
        if start < 0 or (steps is not None and steps < 0):
            raise ValueError(
                f"Expected start and steps of at least 0, got start={start} and steps={steps}."
            )
        end = None if steps is None else start + steps

        def build(k: int) -> tf.data.Dataset:
            plans = tf.data.Dataset.range(k, tf.int64.max if end is None else end).map(
                self._plan(), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
            return _pipeline(self.data, plans.unbatch(), self._random_square, self.batch_size)

        return _stream(build, start, self._finish, self._repair)

    def _repair(self, k: int) -> bool:
        """Looks for what stopped batch k; returns whether it can be made now."""
        used = self._stand_ins(k in self._stopped)[self.indices(k).numpy()]
        found = self.left_out.find(used)
        if k in self._stopped or not self.left_out.cut_short.intersection(used.tolist()):
            return found > 0
        self._stopped.add(k)
        return True

    def _stand_ins(self, stopped: bool) -> np.ndarray:
        """Returns the image used for each: itself, or the next one that can be decoded."""
        # `stopped` says whether it is for a batch that a truncated file has stopped.
        whole = np.arange(len(self.data))
        left_out = set(self.left_out.numbers)
        for number in left_out if stopped else left_out - self.left_out.cut_short:
            other = number
            while other in left_out:
                other = (other + 1) % len(self.data)
            whole[number] = other
        return whole

    def _plan(self) -> Callable[..., Any]:
        with tf.device("CPU"):
            usual = tf.constant(self._stand_ins(False)) if len(self.left_out) else None
            stopped = tf.constant(sorted(self._stopped), tf.int64)
            strict = tf.constant(self._stand_ins(True)) if self._stopped else None

        def plan(k: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], tf.Tensor, tf.Tensor]:
            indices = own = self.indices(k)
            if usual is not None:
                indices = tf.gather(usual, own)
            if strict is not None:
                anew = tf.reduce_any(stopped == k)
                indices = tf.where(anew, tf.gather(strict, own), indices)
            places = k * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)
            seeds = tf.stack([tf.fill([self.batch_size], tf.constant(self.seed, tf.int64)), places])
            flips = tf.random.stateless_uniform([self.batch_size], [self.seed, k], 0, 2, tf.int32)
            return self.data.source.fetch(indices), tf.transpose(seeds), flips

        return plan

    def _random_square(
        self, encoded: tf.Tensor, boxes: tf.Tensor, seed: tf.Tensor, flip: tf.Tensor
    ) -> tf.Tensor:
        square = photographs.random_square(
            encoded,
            boxes,
            seed,
            self.data.image_size,
            jpeg_only=not self.left_out.others,
            scaled=self._large,
        )
        # Along axis 1 or no axis: a tf.cond would cost more.
        return tf.reverse(square, tf.range(1, 1 + flip))


class StoredTestBatches:
    """The middle of every image once, for measuring a network.

    Images that can't be decoded are left out.

    Attributes:
      left_out: The images left out so far.
    """

    def __init__(
        self,
        data: StoredImages,
        batch_size: int,
        dtype: tf.DType = tf.float32,
        channels_first: bool = False,
        limit: int | None = None,
        mixed: bool = False,
    ) -> None:
        """Sets the batches up; nothing is read yet.

        Args:
          data: The images.
          batch_size: The batch size B; the last batch may be smaller.
          dtype: The dtype of the inputs.
          channels_first: Whether inputs are [B, channels, height, width].
          limit: The most images to use, evenly spread over the data set; None for all.
          mixed: Whether to use a fixed random order instead of the data set's, which may be sorted
            by class.

        Raises:
          ValueError: If the batch size is out of range or the dtype is not floating.
        """
        _check_batch_size(batch_size, data)
        self.data, self.batch_size = data, batch_size
        self.left_out = LeftOut(data)
        self._finish = _finisher(dtype, channels_first)
        count = len(data) if limit is None else min(limit, len(data))
        self._chosen = np.arange(count) * len(data) // count
        if mixed:
            self._chosen = np.random.default_rng(0).permutation(self._chosen)

    def __iter__(self) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Iterates over (inputs, labels), as `StoredBatches.dataset` does."""

        def remaining(k: int) -> np.ndarray:
            good = ~np.isin(self._chosen, self.left_out.numbers)
            return self._chosen[good][k * self.batch_size :]

        def build(k: int) -> tf.data.Dataset:
            plans = tf.data.Dataset.from_tensor_slices(remaining(k)).batch(self.batch_size)
            fetched = plans.map(
                lambda indices: (self.data.source.fetch(indices),),
                num_parallel_calls=tf.data.AUTOTUNE,
            ).unbatch()
            return _pipeline(self.data, fetched, self._central_square, self.batch_size, False)

        def repair(k: int) -> bool:
            return self.left_out.find(remaining(k)[: self.batch_size]) > 0

        return _stream(build, 0, self._finish, repair)

    def _central_square(self, encoded: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
        del boxes
        return photographs.central_square(encoded, self.data.image_size)


def _pipeline(
    data: StoredImages,
    fetched: tf.data.Dataset,
    square: Callable[..., tf.Tensor],
    batch_size: int,
    drop_remainder: bool = True,
) -> tf.data.Dataset:
    def decode(tensors: tuple[tf.Tensor, ...], *drawn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        encoded, label, boxes = data.source.parse(*tensors)
        return square(encoded, boxes, *drawn), label

    def check(squares: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        right = tf.reduce_all((labels >= 0) & (labels < data.num_classes))
        with tf.control_dependencies([tf.raw_ops.Assert(condition=right, data=[labels])]):
            return squares, tf.cast(labels, tf.int32)

    images = fetched.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return images.batch(batch_size, drop_remainder=drop_remainder).map(check)


def _finisher(dtype: tf.DType, channels_first: bool) -> Callable[..., Any]:
    dtype = tf.as_dtype(dtype)
    if not dtype.is_floating:
        raise ValueError(f"Expected a floating dtype for the inputs, got {dtype.name}.")

    def finish(squares: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = photographs.standardize(squares)
        if channels_first:
            inputs = tf.transpose(inputs, [0, 3, 1, 2])
        return tf.cast(inputs, dtype), labels

    return finish


def _stream(
    build: Callable[[int], tf.data.Dataset],
    start: int,
    finish: Callable[..., Any],
    repair: Callable[[int], bool],
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Runs a pipeline; if an image stops batch k, `repair(k)` leaves it out and it continues."""
    k = start
    while True:
        try:
            for batch in build(k).map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(_AHEAD):
                yield batch
                k += 1
            return
        except tf.errors.OpError as error:
            if not repair(k):
                raise DataError(
                    f"Expected to read batch {k} of the images, could not:"
                    f" {error.message.splitlines()[0]}; try it again or copy the data set anew."
                ) from error


def _check_batch_size(batch_size: int, data: StoredImages) -> None:
    if not 1 <= batch_size <= len(data):
        raise ValueError(
            f"Expected a batch size from 1 to {len(data)}, the number of images of {data.name};"
            f" got {batch_size}."
        )


def _are_large(data: StoredImages) -> bool:
    """Whether most images are so large that decoding them scaled down pays."""
    count = min(_MEASURED, len(data))
    numbers = np.arange(count) * len(data) // count
    contents = []
    for tensors in zip(*data.source.fetch(tf.constant(numbers)), strict=True):
        # Images that are damaged or gone are reported when their batch comes.
        with contextlib.suppress(tf.errors.OpError):
            contents.append(data.source.parse(*tensors)[0].numpy())
    sides = photographs.shorter_sides(contents)
    return bool(sides) and float(np.median(sides)) >= 2 * data.image_size
