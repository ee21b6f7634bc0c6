"""Writes folders of images as TFRecords: `python train_val/folders_to_tfrecords.py`."""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import conversion_flags

    running.begin(__doc__, conversion_flags.define_flags, conversion_flags.check_flags)

import dataclasses
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm
from absl import flags

from mlhf.checks.arguments import check_count
from mlhf.runs.progress import ProgressBar
from replay import (
    DamagedFileError,
    DirectoryLock,
    read_json,
    remove_temporary_files,
    replace_file,
)
from train_val.cli.flags import conversion_flags
from train_val.data import DataError
from train_val.data.image_folders import FolderImages, shown
from train_val.data.imagenet import CONVERSION_FILE, LABELS_FILE
from train_val.data.stored_batches import too_many_damaged
from train_val.data.tfrecords import index_of

FLAGS = flags.FLAGS
define_flags, check_flags = conversion_flags.define_flags, conversion_flags.check_flags

# The ending of a file that is not finished, which a kill leaves behind.
_UNFINISHED = ".unfinished"
# The first bytes of image files, by format.
_FORMATS = {b"\xff\xd8": b"JPEG", b"GI": b"GIF", b"BM": b"BMP"}
# Errors of a single file, not of the disk.
_OF_ONE_FILE = (errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.EPERM)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The result of `convert`.

    Attributes:
      written: Images in the files written now.
      found: Files that an earlier run had written.
      left_out: Paths of images that can't be read or decoded, in the files written now.
      left_out_before: The number of images left out of the files that an earlier run had written.
    """

    written: int
    found: int
    left_out: list[str]
    left_out_before: int = 0


def convert(
    data_dir: str | Path,
    output_dir: str | Path,
    *,
    train_shards: int = 1024,
    validation_shards: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> Conversion:
    """Writes `train/<class>/*.JPEG` and `val/<class>/*.JPEG` as TFRecords.

    The layout is that of TensorFlow's models: files `train-00000-of-01024` and
    `validation-00000-of-00128` with the features image/encoded, image/class/label (from 1, in the
    order of the classes' names), image/class/synset, image/filename, image/height, image/width,
    image/format, image/colorspace and image/channels; and `labels.txt` with the classes' names.
    Images are shuffled and their bytes copied unchanged. Images that can't be read or decoded are
    left out, unless they are more than 10 and more than a 20th of a part, or all of it.

    Each file appears whole or not at all: a conversion that was killed continues where it stopped
    when it is started again with the same arguments.

    Args:
      data_dir: The folder with `train/` and `val/`; without `val/` only `train/` is converted.
      output_dir: The folder for the files; made if it does not exist.
      train_shards: The number of files for the training images.
      validation_shards: The number of files for the validation images.
      seed: The seed of the shuffling.
      progress: Whether a progress bar is shown.

    Returns:
      The numbers of images written and left out.

    Raises:
      DataError: If there are no images, fewer than files, too many that can't be decoded, a class
        whose name has a line break, or `output_dir` holds another conversion.
      OSError: If a file can't be written.
    """
    data_dir, output_dir = Path(data_dir), Path(output_dir)
    train = FolderImages(data_dir / "train")
    parts = [("train", train, check_count("train_shards", train_shards))]
    val = data_dir / "val"
    if os.path.lexists(val) and not val.is_dir():
        raise DataError(
            f"Expected a folder with the validation images in {val}, found something else: put it"
            " right, or move it away to convert the training images alone."
        )
    if val.is_dir():
        shards = check_count("validation_shards", validation_shards)
        parts.append(("validation", FolderImages(val, train.classes), shards))
    else:
        tqdm.tqdm.write(f"No {val}: the training images alone are converted.")
    for name, images, shards in parts:
        if len(images) < shards:
            raise DataError(
                f"Expected at least as many {name} images as files, found {len(images)} images for"
                f" {shards} files: ask for fewer."
            )
    for name in train.classes:
        if "\n" in name or "\r" in name:
            raise DataError(
                f"Expected names of class folders on one line, found {name!r} in"
                f" {data_dir / 'train'}: rename it."
            )
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = DirectoryLock(output_dir, "conversion")
    except RuntimeError as error:
        raise DataError(
            f"Expected an output_dir that no other conversion writes to, but {error}"
        ) from error
    try:
        return _convert(data_dir, output_dir, parts, seed, progress)
    finally:
        lock.release()


def _convert(
    data_dir: Path, output_dir: Path, parts: list[Any], seed: int, progress: bool
) -> Conversion:
    _check_plan(output_dir, data_dir, parts, seed)
    remove_temporary_files(output_dir)
    for path in output_dir.glob(f"*-?????-of-?????{_UNFINISHED}"):
        path.unlink()
    result = Conversion(0, 0, [])
    for name, images, shards in parts:
        order = np.random.RandomState(seed).permutation(len(images))
        pieces = np.array_split(order, shards)
        damaged_here = 0
        with ProgressBar(total=len(images), unit="image", desc=name, disable=not progress) as bar:
            for shard, piece in enumerate(pieces):
                path = output_dir / f"{name}-{shard:05d}-of-{shards:05d}"
                if path.exists():
                    missing = len(piece) - len(index_of([path])[0])
                    damaged_here += missing
                    result = dataclasses.replace(
                        result,
                        found=result.found + 1,
                        left_out_before=result.left_out_before + missing,
                    )
                else:
                    damaged = _write_shard(path, images, piece, damaged_here)
                    damaged_here += len(damaged)
                    result = dataclasses.replace(
                        result,
                        written=result.written + len(piece) - len(damaged),
                        left_out=result.left_out + damaged,
                    )
                bar.update(len(piece))
        _check_damage(damaged_here, len(images), name)
    return result


def _check_damage(damaged: int, images: int, name: str) -> None:
    """Refuses a set of images if too many can't be decoded: training would only see the rest."""
    if too_many_damaged(damaged, images):
        raise DataError(
            f"Expected {name} images with a few damaged ones at most, found {damaged:,} of"
            f" {images:,} that can't be read or decoded: copy the images anew, and convert them"
            " into another output_dir."
        )


def _check_plan(output_dir: Path, data_dir: Path, parts: list[Any], seed: int) -> None:
    """Writes a note of what is converted, or checks that an earlier run converted the same."""
    digest = hashlib.sha256()
    for _, images, _ in parts:
        for path in images.paths:
            digest.update(os.fsencode(f"{Path(path).relative_to(data_dir)}\n"))
    plan = {
        "images": {name: len(images) for name, images, _ in parts},
        "files": {name: shards for name, _, shards in parts},
        "seed": seed,
        "names": digest.hexdigest()[:32],
    }
    note = output_dir / CONVERSION_FILE
    if note.exists():
        try:
            found = read_json(note, "what an earlier conversion has noted")
        except DamagedFileError as error:
            raise DataError(f"{error} Or give another output_dir.") from error
        if found != plan:
            raise DataError(
                f"Expected in {output_dir} nothing or an unfinished conversion of the same images"
                f" into the same files ({plan}), found {found}: give another output_dir."
            )
    elif any(output_dir.glob("*-?????-of-?????")):
        raise DataError(
            f"Expected no TFRecords in {output_dir} that this conversion has not made, found some:"
            " give another output_dir."
        )
    labels = os.fsencode("".join(f"{name}\n" for name in parts[0][1].classes))
    path = output_dir / LABELS_FILE
    if not note.exists() and path.exists() and path.read_bytes() != labels:
        raise DataError(
            f"Expected no {path} that this conversion has not made, found one: give another"
            " output_dir."
        )
    with replace_file(path) as file:
        file.write(labels)
    with replace_file(note) as file:
        file.write(json.dumps(plan).encode())


def _write_shard(
    path: Path, images: FolderImages, piece: np.ndarray, damaged_before: int
) -> list[str]:
    damaged: list[str] = []
    unfinished = path.with_name(path.name + _UNFINISHED)
    try:
        with tf.io.TFRecordWriter(str(unfinished)) as writer:
            for number in piece:
                source = Path(images.paths[number])
                content, problem = _content(source)
                if problem is None:
                    try:
                        image = tf.io.decode_image(content, channels=0, expand_animations=False)
                    except (tf.errors.OpError, ValueError):
                        problem = "can't be decoded"
                if problem is not None:
                    damaged.append(str(source))
                    tqdm.tqdm.write(f"Left out: {shown(source)} {problem}.")
                    # Before the file counts as finished: another run would continue after it.
                    known = damaged_before + len(damaged)
                    _check_damage(known, len(images), path.name.partition("-")[0])
                    continue
                label = int(images.labels[number])
                name = images.classes[label]
                example = _example(content, image.shape, label + 1, name, source)
                # Otherwise the order of the features would differ between processes.
                writer.write(example.SerializeToString(deterministic=True))
    except tf.errors.OpError as error:
        raise OSError(
            f"Expected to write {unfinished}, could not ({error.message.splitlines()[0]}): make "
            "room, and start again."
        ) from error
    with open(unfinished, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    return damaged


def _content(path: Path) -> tuple[bytes, str | None]:
    """Returns a file's bytes; if it can't be read, none and the reason."""
    try:
        return path.read_bytes(), None
    except OSError as error:
        if error.errno not in _OF_ONE_FILE:
            raise
        return b"", f"can't be read ({error.strerror})"


def _example(
    content: bytes, shape: tf.TensorShape, label: int, synset: str, path: Path
) -> tf.train.Example:
    def feature(value: int | bytes) -> tf.train.Feature:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    height, width, channels = (int(n) for n in shape)
    values: dict[str, int | bytes] = {
        "image/encoded": content,
        "image/class/label": label,
        "image/class/synset": os.fsencode(synset),
        "image/filename": os.fsencode(path.name),
        "image/height": height,
        "image/width": width,
        "image/channels": channels,
        "image/format": _FORMATS.get(content[:2], b"PNG"),
        # As it decodes: TensorFlow makes RGB of CMYK.
        "image/colorspace": b"Grey" if channels == 1 else b"RGB",
    }
    return tf.train.Example(
        features=tf.train.Features(feature={name: feature(v) for name, v in values.items()})
    )


def main() -> None:
    """Reads the flags and converts."""
    result = convert(
        FLAGS.data_dir,
        FLAGS.output_dir,
        train_shards=FLAGS.train_shards,
        validation_shards=FLAGS.validation_shards,
        seed=FLAGS.seed,
    )
    print(summary(result, FLAGS.output_dir))


def summary(result: Conversion, folder: str) -> str:
    """Returns the outcome in a sentence or two."""
    text = f"{result.written:,} images written to {folder}"
    text += f", {result.found} files were there already." if result.found else "."
    if result.left_out:
        text += f" {len(result.left_out)} images can't be decoded and were left out."
    if result.left_out_before:
        text += f" {result.left_out_before} are left out of the files that were there."
    return text


if __name__ == "__main__":
    running.finish(main)
