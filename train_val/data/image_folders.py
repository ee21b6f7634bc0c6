from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
import tqdm

from train_val.data.image_data import DataError

SUFFIXES = (".jpeg", ".jpg", ".png")


class FolderImages:
    """Images in a folder for each class: `<class>/*.JPEG`.

    A label is the class's place among the sorted names of all class folders, whatever they are
    called; names that begin with a dot are neither classes nor images. Entries with an image's name
    that are not files (a folder, a link to nothing or to itself) are left out, as are links from a
    class back to a folder that contains it; a line reports how many.

    Attributes:
      classes: The names of the classes, sorted.
      paths: The paths of the images, sorted within each class.
      labels: The labels, int64 [N].
      left_out: The paths of entries with an image's name that are not files.
      others: The paths of files without an image's name.
    """

    def __init__(self, folder: Path, classes: list[str] | None = None) -> None:
        """Lists the images.

        Args:
          folder: The folder that holds the class folders.
          classes: The names of the classes, if another folder decides them; None for the names of
            the folders that are there.

        Raises:
          DataError: If there is no image, or a class folder is empty or not of a known class.
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
        self.left_out: list[str] = []
        self.others: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            if name not in there:
                continue
            images = self._images_in(folder / name)
            if not images:
                raise DataError(
                    f"Expected images ({', '.join(SUFFIXES)}) in {folder / name}, found none: put"
                    " the class's images there or move the folder away."
                )
            self.paths += images
            labels += [label] * len(images)
        for found, why in (
            (self.left_out, "have the name of an image and are no files"),
            (self.others, f"do not end in {', '.join(SUFFIXES)}"),
        ):
            if found:
                tqdm.tqdm.write(
                    f"Left out: {len(found)} in the folders of classes in {shown(folder)} that"
                    f" {why}, {shown(found[0])} the first."
                )
        self.labels = np.array(labels, np.int64)
        with tf.device("CPU"):
            # As bytes: a name may not be valid UTF-8.
            self._path_table = tf.constant([os.fsencode(path) for path in self.paths])
            self._label_table = tf.constant(self.labels)

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns paths and labels; see `Source`."""
        return tf.gather(self._path_table, indices), tf.gather(self._label_table, indices)

    def parse(self, path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reads the file; see `Source`."""
        return tf.io.read_file(path), label, tf.zeros([1, 0, 4])

    def fingerprint(self) -> str:
        """Returns a digest of the names of classes and files; see `Source`."""
        names = ["/".join(path.split(os.sep)[-2:]) for path in self.paths]
        text = os.fsencode("\n".join([*self.classes, "", *names]))
        return hashlib.sha256(text).hexdigest()[:16]

    def describe(self, index: int) -> str:
        """Returns the image's path."""
        return self.paths[index]

    def _images_in(self, folder: Path) -> list[str]:
        """Returns the paths of a class's images, sorted, and notes the entries left out."""
        images: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.name.lower().endswith(SUFFIXES):
                    (images if _is(entry.is_file) else self.left_out).append(entry.path)
                elif _is(entry.is_file):
                    self.others.append(entry.path)
        return sorted(images)


def shown(path: str | os.PathLike[str]) -> str:
    """Returns a path as text that can be printed, whatever bytes are in it."""
    return os.fsencode(path).decode(errors="replace")


def _class_folders(folder: Path) -> list[str]:
    here = folder.resolve() if folder.is_dir() else folder
    found = sorted(
        entry.name
        for entry in (os.scandir(folder) if folder.is_dir() else ())
        if not entry.name.startswith(".")
        and _is(entry.is_dir)
        and not (entry.is_symlink() and Path(entry.path).resolve() in (here, *here.parents))
    )
    if not found:
        raise DataError(
            f"Expected in {folder} a folder of images for each class ({folder.name}/<wnid>/*.JPEG),"
            " found none: sort the images into such folders."
        )
    return found


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry of a folder is of a kind; a link to itself is of no kind."""
    try:
        return kind()
    except OSError:
        return False
