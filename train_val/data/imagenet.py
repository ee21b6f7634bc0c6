from __future__ import annotations

import os
import re
from pathlib import Path

from train_val.data.image_data import DataError
from train_val.data.image_folders import FolderImages
from train_val.data.stored_images import Source, StoredImages
from train_val.data.tfds_examples import import_tfds
from train_val.data.tfrecords import TFRecordImages

IMAGE_SIZE = 224
CLASSES = 1000
# A file with the name of a class on each line, beside TFRecords that do not have 1,000 classes.
LABELS_FILE = "labels.txt"
# A file that `folders_to_tfrecords` writes beside its files: all names in LABELS_FILE are classes.
CONVERSION_FILE = "conversion.json"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
_LAYOUTS = (
    "folders train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, TFRecords train-00000-of-01024 and"
    " validation-00000-of-00128, or tensorflow-datasets' imagenet2012"
)


def load_imagenet(
    data_dir: str | os.PathLike[str] | None,
    part: str,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
) -> StoredImages:
    """Opens ImageNet, or another data set with its layout, on the disk.

    A class has the same label, its place from 0 among the sorted names of all classes, whether
    the images are folders, TFRecords of TensorFlow's models (which count from 1, and reserve 0 for
    a background that no image has), or from tensorflow-datasets.

    Args:
      data_dir: A folder with one of the three layouts; None for tensorflow-datasets' own folder.
      part: "meta_train" and "train" are both the training images; "test" is the validation images,
        because the labels of ImageNet's test images are not public.
      num_classes: The number of a network's outputs: the number of classes (None) or one more, as
        the original's 1,001.
      image_size: The side of the images that a network sees; None for 224.

    Returns:
      The images; none is read yet.

    Raises:
      DataError: If there is none of the layouts, it is damaged, or it has another number of
        classes.
      ValueError: If a number makes no sense.
    """
    size = IMAGE_SIZE if image_size is None else image_size
    if size < 1:
        raise ValueError(f"Expected an image_size of at least 1, got {size}.")
    training = part != "test"
    folder = _tfds_folder() if data_dir is None else Path(data_dir)
    if not folder.is_dir():
        raise DataError(f"Expected a folder with ImageNet in {folder}, found none: {_LAYOUTS}.")
    for find in (_tfrecords, _from_tfds, _folders):
        found = find(folder, training)
        if found is not None:
            source, classes = found
            break
    else:
        raise DataError(f"Expected ImageNet in {folder}, found none of its layouts: {_LAYOUTS}.")
    if num_classes is None:
        num_classes = classes
    elif num_classes not in (classes, classes + 1):
        raise DataError(
            f"Expected num_classes={classes}, the number of classes in {folder} (or"
            f" {classes + 1}, with one for a background), got {num_classes}: give that, or leave"
            " it out."
        )
    return StoredImages(source, num_classes, size, f"ImageNet in {folder}")


def _folders(folder: Path, training: bool) -> tuple[Source, int] | None:
    if not (folder / "train").is_dir():
        return None
    # The folders of the training images determine the classes.
    images = FolderImages(folder / "train")
    if not training:
        if not (folder / "val").is_dir():
            raise DataError(
                f"Expected the validation images in {folder / 'val'}, found no such folder: put"
                " them there, in a folder for each class."
            )
        images = FolderImages(folder / "val", images.classes)
    return images, len(images.classes)


def _tfrecords(folder: Path, training: bool) -> tuple[Source, int] | None:
    prefix = "train" if training else "validation"
    # The original's script makes a folder for each part.
    for place in (folder, folder / prefix):
        files = sorted(place.glob(f"{prefix}-*-of-*")) if place.is_dir() else []
        files = [file for file in files if _SHARD.fullmatch(file.name) and not file.is_dir()]
        if files:
            _check_shards(files)
            images = TFRecordImages(
                files,
                encoded="image/encoded",
                label="image/class/label",
                first_label=1,
                boxes="image/object/bbox",
            )
            return images, _classes_beside(place, folder)
    return None


def _from_tfds(folder: Path, training: bool) -> tuple[Source, int] | None:
    part = "train" if training else "validation"
    pattern = f"imagenet2012-{part}.tfrecord-*-of-*"
    versions = sorted(
        (path for path in folder.glob("imagenet2012/*") if path.is_dir()), key=_version
    )
    for place in (folder, *reversed(versions)):
        files = [file for file in sorted(place.glob(pattern)) if _SHARD.fullmatch(file.name)]
        if files:
            _check_shards(files)
            images = TFRecordImages(files, encoded="image", label="label", first_label=0)
            return images, _classes_beside(place, folder, background=False)
    return None


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path.name))


def _check_shards(files: list[Path]) -> None:
    matches = [_SHARD.fullmatch(file.name) for file in files]
    counts = sorted({int(match[3]) for match in matches if match})
    numbers = {int(match[2]) for match in matches if match}
    missing = sorted(set(range(counts[0])).difference(numbers))
    if len(counts) > 1 or missing:
        raise DataError(
            f"Expected in {files[0].parent} all files of one set, {files[0].name} among them, found"
            f" sets of {counts} files and {len(missing)} missing"
            f"{f', number {missing[0]} the first' if missing else ''}: copy or make them anew."
        )


def _classes_beside(place: Path, folder: Path, background: bool = True) -> int:
    """Returns the number of classes, from a file of names in `place` or in `folder`.

    Args:
      place: The folder of the TFRecords.
      folder: The folder of the data set, which contains `place`.
      background: Whether a class of that name does not count, as when labels begin at 1.

    Returns:
      The number of names; 1,000 if there is no such file.
    """
    # The file of tensorflow-datasets has this name too, after the name of the feature.
    for name in (LABELS_FILE, f"label.{LABELS_FILE}"):
        for file in (place / name, folder / name):
            if file.is_file():
                # Names may contain other line separators and be in other encodings.
                lines = file.read_bytes().decode("utf-8", "surrogateescape").split("\n")
                if (file.parent / CONVERSION_FILE).exists() and _is_sorted(lines):
                    return len(lines) - 1
                # Each line has a name, perhaps with blanks, or a number and a name; some files have
                # a class for the background, which no image has.
                names = [re.sub(r"^\d+:", "", line).strip() for line in lines]
                none = ("", "background") if background else ("",)
                return sum(name not in none for name in names)
    return CLASSES


def _is_sorted(lines: list[str]) -> bool:
    """Whether the lines are those of `folders_to_tfrecords`: sorted names, each with a line end."""
    *names, last = lines
    return last == "" and names == sorted(set(names))


def _tfds_folder() -> Path:
    tfds = import_tfds("imagenet without its folder")
    try:
        builder = tfds.builder("imagenet2012")
        folder, prepared = Path(str(builder.data_path)), builder.is_prepared()
    except Exception as error:  # whatever tensorflow-datasets may raise
        raise DataError(
            f"Expected imagenet2012 of tensorflow-datasets, could not find it ({error}): give the"
            f" images' folder as data_dir: {_LAYOUTS}."
        ) from error
    if not prepared:
        raise DataError(
            f"Expected imagenet2012 of tensorflow-datasets in {folder}, it is not prepared, and"
            " ImageNet can't be downloaded without an account: give the images' folder as"
            f" data_dir: {_LAYOUTS}."
        )
    return folder
