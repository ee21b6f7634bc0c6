from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, overload

from train_val.data import cifar10, digits, mnist
from train_val.data.image_data import ImageData
from train_val.data.imagenet import load_imagenet
from train_val.data.stored_images import StoredImages

_LOADERS: dict[str, Callable[[str | os.PathLike[str] | None, str, str], ImageData]] = {
    "cifar10": cifar10.load_cifar10,
    "digits": digits.load_digits,
    "mnist": mnist.load_mnist,
}

IMAGENET = "imagenet"
NAMES = (*_LOADERS, IMAGENET)
PARTS = ("meta_train", "train", "test")
SPLITS = ("original", "standard")


@overload
def load(
    name: Literal["cifar10", "digits", "mnist"],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    part: str,
    split: str = "original",
) -> ImageData: ...


@overload
def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    part: str,
    split: str = "original",
    num_classes: int | None = None,
    image_size: int | None = None,
) -> ImageData | StoredImages: ...


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    part: str,
    split: str = "original",
    num_classes: int | None = None,
    image_size: int | None = None,
) -> ImageData | StoredImages:
    """Loads one part of a data set.

    Args:
      name: "cifar10", "digits", "imagenet" or "mnist".
      data_dir: The folder that holds the files: for CIFAR-10 `cifar-10-batches-bin/` or
        that folder itself, for MNIST the four idx files (directly or in `mnist/`), for
        ImageNet as `load_imagenet` says. None takes them from tensorflow-datasets, which
        downloads CIFAR-10 and MNIST once. Digits comes with scikit-learn and needs no folder.
      part: "meta_train" (for learning an optimizer), "train" (for training a network with it)
        or "test".
      split: "original" has three disjoint parts: for CIFAR-10 those of the paper (batches 1 to
        3, batches 4 and 5, the test batch). "standard" is for CIFAR-10 only: "meta_train" and
        "train" are both the usual 50,000 images, so that accuracies can be compared with
        published ones, but meta-training has seen the images. For ImageNet both are always all
        training images, and "test" is the validation images.
      num_classes: The number of classes of ImageNet, see `load_imagenet`; fixed for the others.
      image_size: The side of ImageNet's images, see `load_imagenet`; fixed for the others.

    Returns:
      The images and labels; the same ones in the same order at every call. ImageNet's stay
      on the disk.

    Raises:
      ValueError: If a name, part or split is not known.
      DataError: If a file is missing or damaged, or a download is impossible.
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
    if name == IMAGENET:
        return load_imagenet(data_dir, part, num_classes=num_classes, image_size=image_size)
    return _LOADERS[name](data_dir, part, split)
