from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from train_val.data.image_data import DataError, ImageData
from train_val.data.tfds_examples import tfds_examples

_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801  # unsigned bytes of 3 and of 1 dimension
_SIDE, _CLASSES = 28, 10
# An idx file that claims to hold more is not one of MNIST's.
_LARGEST = 2**30
_META_TRAIN = 30_000  # of the 60,000 training images; the others are for evaluation
# Mean and deviation of all pixels of the training images, which range from 0 to 255.
_PIXEL_MEAN, _PIXEL_STD = 33.32, 78.57
_WHAT_TO_DO = (
    "get the four files of MNIST anew, or leave data_dir out to download with tensorflow-datasets"
)


def load_mnist(data_dir: str | os.PathLike[str] | None, part: str, split: str) -> ImageData:
    """Loads MNIST, grey images of 28 x 28, from the four idx files or from tensorflow-datasets.

    The parts are disjoint: the first 30,000 training images are "meta_train", the other
    30,000 "train"; the 10,000 of t10k are "test". tensorflow-datasets has its own order,
    always the same, so that its halves are not those of the files. Networks see
    (pixel - 33.32) / 78.57, with the mean and deviation of all pixels.

    Args:
      data_dir: The folder of the idx files, gzipped or not, directly or in `mnist/`; None
        downloads.
      part: "meta_train", "train" or "test".
      split: Not used, since there is only one.

    Returns:
      The images and labels of the part.

    Raises:
      DataError: If a file is missing, truncated or another idx file: with images of another size,
        labels above 9, different numbers of labels and images, or no image for the part.
    """
    prefix = "t10k" if part == "test" else "train"
    if data_dir is None:
        examples = tfds_examples("mnist", "test" if part == "test" else "train")
        images, labels = examples["image"], examples["label"].astype(np.int32)
        names = ("mnist of tensorflow-datasets",) * 2
    else:
        images_path, labels_path = _find(Path(data_dir), prefix)
        images = read_idx(images_path, _IMAGES_MAGIC, (_SIDE, _SIDE))[..., np.newaxis]
        labels = read_idx(labels_path, _LABELS_MAGIC).astype(np.int32)
        names = str(images_path), str(labels_path)
        if len(images) != len(labels):
            raise DataError(
                f"Expected as many labels as images, found {len(images):,} images in"
                f" {images_path} and {len(labels):,} labels in {labels_path}: {_WHAT_TO_DO}."
            )
    _check(images, labels, 0 if part == "test" else _META_TRAIN, *names)
    if part == "meta_train":
        images, labels = images[:_META_TRAIN], labels[:_META_TRAIN]
    elif part == "train":
        images, labels = images[_META_TRAIN:], labels[_META_TRAIN:]
    return ImageData(images, labels, 10, "MNIST", _PIXEL_MEAN, _PIXEL_STD)


def _check(
    images: np.ndarray, labels: np.ndarray, above: int, images_name: str, labels_name: str
) -> None:
    if images.shape[1:] != (_SIDE, _SIDE, 1) or len(images) <= above:
        raise DataError(
            f"Expected more than {above:,} images of {_SIDE} x {_SIDE} pixels in {images_name},"
            f" found {len(images):,} of {_extent(images.shape[1:])}: {_WHAT_TO_DO}."
        )
    if labels.min() < 0 or labels.max() >= _CLASSES:
        raise DataError(
            f"Expected labels from 0 to {_CLASSES - 1} in {labels_name}, found {labels.min()} to"
            f" {labels.max()}: it is damaged or of another data set; {_WHAT_TO_DO}."
        )


def read_idx(path: Path, magic: int, item: tuple[int, ...] | None = None) -> np.ndarray:
    """Reads the array in one idx file of unsigned bytes, gzipped if its name ends in .gz.

    Not more is unpacked than the header says, and at most 1 GiB.

    Args:
      path: The file.
      magic: The number that it must begin with, 0x800 plus the number of dimensions.
      item: The shape that must follow the first axis; None for any shape.

    Returns:
      The array, uint8, in the shape that the header says.

    Raises:
      DataError: If the file can't be read, begins differently, holds items of another shape, or
        does not have the length that its header says.
    """
    dimensions = magic & 0xFF
    header = 4 * (1 + dimensions)
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(header)
            if len(start) < header or int.from_bytes(start[:4], "big") != magic:
                raise DataError(
                    f"Expected {path} to begin with the number {magic:#010x}, found"
                    f" 0x{start[:4].hex()}: it is another file; {_WHAT_TO_DO}."
                )
            shape = tuple(int(n) for n in np.frombuffer(start, ">u4", dimensions, offset=4))
            if item is not None and shape[1:] != item:
                raise DataError(
                    f"Expected items of {_extent(item)} in {path}, found {_extent(shape[1:])}: it"
                    f" is another data set; {_WHAT_TO_DO}."
                )
            expected = math.prod(shape)
            if expected > _LARGEST:
                raise DataError(
                    f"Expected at most {_LARGEST:,} bytes in {path}, its header says"
                    f" {expected:,}: it is damaged or another data set; {_WHAT_TO_DO}."
                )
            content = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"Expected an idx file in {path}, could not read it ({error}): {_WHAT_TO_DO}."
        ) from error
    if len(content) != expected:
        more = " or more" if len(content) > expected else ""
        raise DataError(
            f"Expected {header + expected:,} bytes in {path}, as its header says, found"
            f" {header + len(content):,}{more}: {_WHAT_TO_DO}."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _extent(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape) or "one number"


def _find(data_dir: Path, prefix: str) -> tuple[Path, Path]:
    """Returns the files of images and labels, both of one folder, so that they belong together."""
    names = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    missing, place = names[0], data_dir
    for folder in (data_dir, data_dir / "mnist"):
        found = {
            name: path
            for name in names
            for path in (folder / f"{name}.gz", folder / name)
            if path.is_file()
        }
        if len(found) == len(names):
            return found[names[0]], found[names[1]]
        if found:
            (missing,), place = set(names) - set(found), folder
    raise DataError(
        f"Expected MNIST's {missing} or {missing}.gz in {place}, found neither: {_WHAT_TO_DO}."
    )
