from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from train_val.data.image_data import DataError

SUFFIXES = (".jpeg", ".jpg", ".png")


class FolderImages:
    """Images in a folder for each class: `<class>/*.JPEG`.

    A label is the class's place among the sorted names of all class folders.

    Attributes:
        classes: the names of the classes, sorted.
        paths: of the images, sorted within each class.
        labels: int64 [N].
    """

    def __init__(self, folder: Path, classes: list[str] | None = None):
        """Lists the images.

        Args:
            folder: holds the class folders.
            classes: their names, where another folder decides them; None: those that are there.

        Raises:
            DataError: there is no image, a class folder is empty or of no known class.
        """
        there = _class_folders(folder)
        self.classes = there if classes is None else sorted(classes)
        unknown = sorted(set(there).difference(self.classes))
        if unknown:
            raise DataError(
                f"Expected in {folder} folders named after the training images' classes, found"
                f" {len(unknown)} others, {unknown[0]} among them: give train/ and val/ of one data"
                " set."
            )
        self.paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            if name not in there:
                continue
            images = sorted(
                entry.path
                for entry in os.scandir(folder / name)
                if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
            )
            if not images:
                raise DataError(
                    f"Expected images ({', '.join(SUFFIXES)}) in {folder / name}, found none: put"
                    " the class's images there or remove the folder."
                )
            self.paths += images
            labels += [label] * len(images)
        self.labels = np.array(labels, np.int64)
        with tf.device("CPU"):
            self._path_table = tf.constant(self.paths)
            self._label_table = tf.constant(self.labels)

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Paths and labels; see `Source`."""
        return tf.gather(self._path_table, indices), tf.gather(self._label_table, indices)

    def parse(self, path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reads the file; see `Source`."""
        return tf.io.read_file(path), label, tf.zeros([1, 0, 4])

    def fingerprint(self) -> str:
        """Of the classes' and the files' names; see `Source`."""
        names = ["/".join(path.split(os.sep)[-2:]) for path in self.paths]
        return hashlib.sha256("\n".join([*self.classes, "", *names]).encode()).hexdigest()[:16]

    def describe(self, index: int) -> str:
        """The image's path."""
        return self.paths[index]


def _class_folders(folder: Path) -> list[str]:
    found = sorted(
        entry.name
        for entry in (os.scandir(folder) if folder.is_dir() else ())
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not found:
        raise DataError(
            f"Expected in {folder} a folder of images for each class ({folder.name}/<wnid>/*.JPEG),"
            " found none: sort the images into such folders."
        )
    return found
