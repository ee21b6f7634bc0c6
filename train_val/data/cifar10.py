from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from train_val.data.image_data import DataError, ImageData
from train_val.data.tfds_examples import tfds_examples

FOLDER = "cifar-10-batches-bin"
RECORDS_A_FILE = 10_000
_IMAGE_BYTES = 3 * 32 * 32
_RECORD_BYTES = 1 + _IMAGE_BYTES
_CIFAR100_RECORD_BYTES = 2 + _IMAGE_BYTES  # two labels
_CLASSES = 10
_HOW_TO_GET_IT = "python train_val/cifar10_download_and_extract.py --data_dir=DATA_DIR fetches it"

# (split, part) -> the numbers of the training batches; the test part is the test batch.
_BATCHES = {
    ("original", "meta_train"): (1, 2, 3),
    ("original", "train"): (4, 5),
    ("standard", "meta_train"): (1, 2, 3, 4, 5),
    ("standard", "train"): (1, 2, 3, 4, 5),
}


def load_cifar10(data_dir: str | os.PathLike[str] | None, part: str, split: str) -> ImageData:
    """Loads CIFAR-10, 32 x 32 in colour, from the binary files or from tensorflow-datasets.

    Both have the same images in the same order. Networks see each image standardised by
    itself; training pads it by 4, crops it to 32 x 32 and mirrors it at random.

    Args:
      data_dir: The folder that holds `cifar-10-batches-bin/`, or that folder; None downloads.
      part: "meta_train", "train" or "test".
      split: "original" or "standard", see `train_val.data.load`.

    Returns:
      The images and labels of the part.

    Raises:
      DataError: If a file is missing, is not 10,000 records long or holds a label above 9.
    """
    numbers = _BATCHES.get((split, part))
    if data_dir is None:
        images, labels = _download(numbers)
    else:
        names = ["test_batch.bin"] if numbers is None else [f"data_batch_{n}.bin" for n in numbers]
        folder = _find_folder(Path(data_dir))
        batches = [read_batch(folder / name) for name in names]
        images = np.concatenate([images for images, _ in batches])
        labels = np.concatenate([labels for _, labels in batches])
    return ImageData(images, labels, _CLASSES, "CIFAR-10", augment=True)


def read_batch(path: Path, records: int = RECORDS_A_FILE) -> tuple[np.ndarray, np.ndarray]:
    """Reads one binary file, whose records are a byte for the label and 3,072 for the image.

    Args:
      path: The file.
      records: The number of records that it must have.

    Returns:
      The images, uint8 [records, 32, 32, 3], and the labels, int32 [records].

    Raises:
      DataError: If the file is missing, has another size or a label above 9.
    """
    expected = records * _RECORD_BYTES
    try:
        size = path.stat().st_size
        # Not all of the file, which may be of any size.
        data = np.fromfile(path, np.uint8, expected)
    except OSError as error:
        raise DataError(
            f"Expected {expected:,} bytes of CIFAR-10 (the binary version) in {path}, could not"
            f" read it ({error.strerror}): {_HOW_TO_GET_IT}."
        ) from error
    if size != expected or data.size != expected:
        of_100 = size and not size % _CIFAR100_RECORD_BYTES
        found = ", as CIFAR-100 has them" if of_100 else ""
        raise DataError(
            f"Expected {records:,} records of {_RECORD_BYTES:,} bytes ({expected:,}) in {path},"
            f" found {size:,} bytes{found}: the file is truncated or of another format;"
            f" {_HOW_TO_GET_IT} anew."
        )
    data = data.reshape(records, _RECORD_BYTES)
    labels = data[:, 0].astype(np.int32)
    if labels.max() >= _CLASSES:
        raise DataError(
            f"Expected labels from 0 to {_CLASSES - 1} in {path}, found {labels.max()} in record"
            f" {labels.argmax()}: the file is damaged; {_HOW_TO_GET_IT} anew."
        )
    channels_last = data[:, 1:].reshape(records, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(channels_last), labels


def _find_folder(data_dir: Path) -> Path:
    for folder in (data_dir / FOLDER, data_dir):
        if any(folder.glob("*_batch*.bin")):
            return folder
    there = {path.name for path in data_dir.glob("*")}
    found = "none there"
    if "cifar-10-batches-py" in there or "data_batch_1" in there:
        found = "the version for Python, which is not read"
    elif {"train.bin", "test.bin"} <= there or "cifar-100-binary" in there:
        found = "CIFAR-100's, which are another data set"
    raise DataError(
        f"Expected CIFAR-10's binary files (data_batch_1.bin, ...) in {data_dir / FOLDER}, found"
        f" {found}: {_HOW_TO_GET_IT}, or leave data_dir out to download with"
        " tensorflow-datasets."
    )


def _download(numbers: tuple[int, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    examples = tfds_examples("cifar10", "test" if numbers is None else "train")
    needed = RECORDS_A_FILE * max(numbers or (1,))
    if examples["image"].shape[1:] != (32, 32, 3) or len(examples["image"]) < needed:
        raise DataError(
            f"Expected at least {needed:,} images of 32 x 32 x 3 in cifar10 of tensorflow-datasets,"
            f" found {list(examples['image'].shape)}: prepare it anew, or give the folder of the"
            " binary files as data_dir."
        )
    # The id counts the records of the binary files in their order, which this restores.
    order = np.argsort(examples["id"])
    if numbers is not None:
        records = np.arange(RECORDS_A_FILE)
        order = np.concatenate([order[(n - 1) * RECORDS_A_FILE + records] for n in numbers])
    return examples["image"][order], examples["label"][order].astype(np.int32)
