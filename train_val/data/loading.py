from __future__ import annotations

import os
from collections.abc import Callable

from train_val.data import cifar10, digits, mnist
from train_val.data.image_data import ImageData

_LOADERS: dict[str, Callable[[str | os.PathLike[str] | None, str, str], ImageData]] = {
    "cifar10": cifar10.load_cifar10,
    "digits": digits.load_digits,
    "mnist": mnist.load_mnist,
}

NAMES = tuple(_LOADERS)
PARTS = ("meta_train", "train", "test")
SPLITS = ("original", "standard")


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    part: str,
    split: str = "original",
) -> ImageData:
    """One part of a data set.

    Args:
        name: "cifar10", "digits" or "mnist".
        data_dir: the folder that holds the files: for CIFAR-10 `cifar-10-batches-bin/` or
            that folder itself, for MNIST the four idx files (as they are or in `mnist/`).
            None (the default): CIFAR-10 and MNIST come from tensorflow-datasets, which
            downloads them once. Digits comes with scikit-learn and needs no folder.
        part: "meta_train" (what an optimizer is learned on), "train" (what a network is then
            trained on with it) or "test".
        split: "original" (the default) keeps the three parts disjoint: the paper's for
            CIFAR-10 (batches 1 to 3, batches 4 and 5, the test batch). "standard",
            CIFAR-10 only: "meta_train" and "train" are both the usual 50,000 images, so
            that accuracies compare with others', and meta-training has seen the images.

    Returns:
        The images and labels; the same ones in the same order at every call.

    Raises:
        ValueError: an unknown name, part or split.
        DataError: a file is missing or damaged, or a download is impossible.
    """
    for what, value, known in (
        ("data set", name, NAMES),
        ("part", part, PARTS),
        ("split", split, SPLITS),
    ):
        if value not in known:
            raise ValueError(f"Expected as {what} one of {', '.join(known)}, got {value!r}.")
    if split == "standard" and name != "cifar10":
        raise ValueError(
            f"The standard split is CIFAR-10's only, {name} has one split: leave split at"
            " 'original' for it."
        )
    return _LOADERS[name](data_dir, part, split)
