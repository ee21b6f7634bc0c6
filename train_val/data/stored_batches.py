from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tqdm

from train_val.data import photographs
from train_val.data.image_data import DataError
from train_val.data.order import shuffled_indices
from train_val.data.stored_images import StoredImages

_AHEAD = 2
# So many images tell whether a data set's are large.
_MEASURED = 16
# More damaged images than this share are not a few bad files but a bad data set.
_LARGEST_DAMAGE = 0.05
_ALWAYS_BORNE = 10
# What TensorFlow raises about an image, and not about a mistake in the pipeline itself.
_ABOUT_DATA = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.OutOfRangeError,
    tf.errors.UnimplementedError,
    tf.errors.UnknownError,
)


def too_many_damaged(damaged: int, images: int) -> bool:
    """Whether a data set of so many images, some damaged, is damaged as a whole."""
    return damaged > max(_ALWAYS_BORNE, _LARGEST_DAMAGE * images) or damaged == images


class LeftOut:
    """The images of a data set that can't be decoded: found on the way, named once, counted.

    Attributes:
      numbers: Of the images, in the order found.
      cut_short: Those among them of which a crop near the top can be decoded.
      others: Numbers of images that are no JPEG files, for which a pipeline takes more time.
    """

    def __init__(self, data: StoredImages) -> None:
        self._data = data
        self.numbers: list[int] = []
        self.cut_short: set[int] = set()
        self.others: list[int] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def find(self, indices: np.ndarray) -> int:
        """Looks for images that can't be decoded, writes their names and notes them.

        Args:
          indices: The numbers of images.

        Returns:
          How many images to leave out, or that are no JPEG files, were not known yet.

        Raises:
          DataError: A label is out of range, a file is gone, or too many images are damaged.
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
            return False  # a record that is no example
        if not 0 <= int(label) < self._data.num_classes:
            raise DataError(
                f"Expected labels of {self._data.num_classes} classes in {self._data.name}, found"
                f" {int(label)} (counted from 0) in {name}: give the right number of classes, or"
                " the data set that has so many."
            )
        try:
            # All of it: random crops come to every row.
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
    """Training batches of stored images, of which number k is a pure function of seed and k.

    Order and resuming are those of `Batches`: an endless row of epochs, each a permutation of its
    own; `dataset(start=k)` gives the very batches that `dataset()` gives after k. Each image is
    cropped at random and mirrored by chance, by the seed and its place in the row. In the place of
    an image that can't be decoded stands the next one that can, wherever training begins; of a file
    that is cut short, in those batches whose crop reaches the cut.

    Attributes:
      data: What the batches are made of.
      batch_size: B.
      seed: Of the order and of what is drawn.
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
        """Sets the batches up; a few images are read, for their size.

        Args:
          data: The images.
          batch_size: B, from 1 to the number of images.
          seed: Any integer of 64 bits.
          dtype: Of the inputs (default float32).
          channels_first: Inputs as [B, channels, height, width] (default False).

        Raises:
          ValueError: A size out of range, a seed of more than 64 bits, a dtype that is not
            floating.
        """
        _check_batch_size(batch_size, data)
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"Expected a seed that fits in 64 bits, got {seed}.")
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.left_out = LeftOut(data)
        # The batches that a file cut short has stopped: what of it is whole serves in the others.
        self._stopped: set[int] = set()
        self._finish = _finisher(dtype, channels_first)
        self._large = _are_large(data)

    @property
    def batches_per_epoch(self) -> float:
        """How many batches show every image once; not always a whole number."""
        return len(self.data) / self.batch_size

    def indices(self, k: tf.Tensor | int) -> tf.Tensor:
        """The numbers of the images in batch k before any is left out, int64 [B]."""
        return shuffled_indices(len(self.data), self.batch_size, self.seed, k)

    def dataset(
        self, start: int = 0, steps: int | None = None
    ) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """The batches from number `start` on, read and decoded ahead of who asks for them.

        Args:
          start: The first batch's number (default 0).
          steps: How many batches (default None: without end).

        Returns:
          An iterator over (inputs, labels): inputs [B, size, size, 3] of the dtype, or channels
          first, and labels int32 [B].

        Raises:
          ValueError: Start or steps is negative.
          DataError: Labels or files are not what they should be; `LeftOut.find` says when.
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
        """Which image stands for each: itself, or the next one that can be decoded.

        Args:
          stopped: Whether that is for a batch that a file cut short has stopped.
        """
        whole = np.arange(len(self.data))
        left_out = set(self.left_out.numbers)
        for number in left_out if stopped else left_out - self.left_out.cut_short:
            other = number
            while other in left_out:
                other = (other + 1) % len(self.data)
            whole[number] = other
        return whole

    def _plan(self) -> Callable:
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
        # Along the axis 1 or none: a tf.cond would cost more.
        return tf.reverse(square, tf.range(1, 1 + flip))


class StoredTestBatches:
    """Every image once, its middle and nothing drawn: to measure a network on.

    Images that can't be decoded are left out.

    Attributes:
      left_out: Those found so far.
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
          batch_size: B; the last batch holds what is left and may be smaller.
          dtype: Of the inputs (default float32).
          channels_first: Inputs as [B, channels, height, width] (default False).
          limit: At most so many images, evenly spread over the data set; None for all.
          mixed: In an order that is drawn once, the same always, and not in the data set's,
            which may be class by class (default False).

        Raises:
          ValueError: The batch size is out of range or the dtype is not floating.
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
        """Yields (inputs, labels), as `StoredBatches.dataset`."""

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


def _finisher(dtype: tf.DType, channels_first: bool) -> Callable:
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
    finish: Callable,
    repair: Callable[[int], bool],
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Runs a pipeline; where an image stops batch k, `repair(k)` leaves it out and it goes on."""
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
        # What is damaged or gone is told when its batch comes.
        with contextlib.suppress(tf.errors.OpError):
            contents.append(data.source.parse(*tensors)[0].numpy())
    sides = photographs.shorter_sides(contents)
    return bool(sides) and float(np.median(sides)) >= 2 * data.image_size
