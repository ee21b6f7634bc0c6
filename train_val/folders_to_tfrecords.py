"""Writes folders of images as TFRecords: `python train_val/folders_to_tfrecords.py`."""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import tensorflow as tf
import tqdm
from absl import flags

from mlhf.validation import check_count
from replay import (
    DamagedFileError,
    DirectoryLock,
    read_json,
    remove_temporary_files,
    replace_file,
)
from train_val import command_line
from train_val.data import DataError
from train_val.data.image_folders import FolderImages
from train_val.data.imagenet import LABELS_FILE

FLAGS = flags.FLAGS

# What a kill leaves behind.
_UNFINISHED = ".unfinished"


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The result of `convert`.

    Attributes:
      written: Images in the files written now.
      found: Files that were there from an earlier run.
      left_out: Paths of images that can't be decoded, in the files written now.
    """

    written: int
    found: int
    left_out: list[str]


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
    Images are shuffled and bytes copied as they are. An image that can't be decoded is left out.

    Each file appears whole or not at all: a conversion that was killed goes on where it was when
    it is started again with the same arguments.

    Args:
      data_dir: The folder with `train/` and `val/`; without `val/` only the first is converted.
      output_dir: Where the files go; made if need be.
      train_shards: Files for the training images.
      validation_shards: Files for the validation images.
      seed: Of the shuffling.
      progress: Whether a progress bar is shown.

    Returns:
      What was written and left out.

    Raises:
      DataError: If there are no images, fewer than files, or `output_dir` holds another
        conversion.
      OSError: If a file can't be written.
    """
    data_dir, output_dir = Path(data_dir), Path(output_dir)
    train = FolderImages(data_dir / "train")
    parts = [("train", train, check_count("train_shards", train_shards))]
    if (data_dir / "val").is_dir():
        shards = check_count("validation_shards", validation_shards)
        parts.append(("validation", FolderImages(data_dir / "val", train.classes), shards))
    for name, images, shards in parts:
        if len(images) < shards:
            raise DataError(
                f"Expected at least as many {name} images as files, found {len(images)} images for"
                f" {shards} files: ask for fewer."
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


def _convert(data_dir, output_dir, parts, seed, progress) -> Conversion:
    remove_temporary_files(output_dir)
    for path in output_dir.glob(f"*{_UNFINISHED}"):
        path.unlink()
    _check_plan(output_dir, data_dir, parts, seed)
    written, found, left_out = 0, 0, []
    for name, images, shards in parts:
        order = np.random.RandomState(seed).permutation(len(images))
        pieces = np.array_split(order, shards)
        with tqdm.tqdm(total=len(images), unit="image", desc=name, disable=not progress) as bar:
            for shard, piece in enumerate(pieces):
                path = output_dir / f"{name}-{shard:05d}-of-{shards:05d}"
                if path.exists():
                    found += 1
                else:
                    damaged = _write_shard(path, images, piece)
                    written += len(piece) - len(damaged)
                    left_out += damaged
                bar.update(len(piece))
    return Conversion(written, found, left_out)


def _check_plan(output_dir: Path, data_dir: Path, parts: list, seed: int) -> None:
    """Notes what is converted, or checks that an earlier run converted the same."""
    digest = hashlib.sha256()
    for _, images, _ in parts:
        for path in images.paths:
            digest.update(f"{Path(path).relative_to(data_dir)}\n".encode())
    plan = {
        "images": {name: len(images) for name, images, _ in parts},
        "files": {name: shards for name, _, shards in parts},
        "seed": seed,
        "names": digest.hexdigest()[:32],
    }
    note = output_dir / "conversion.json"
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
    with replace_file(output_dir / LABELS_FILE) as file:
        file.write("".join(f"{name}\n" for name in parts[0][1].classes).encode())
    with replace_file(note) as file:
        file.write(json.dumps(plan).encode())


def _write_shard(path: Path, images: FolderImages, piece: np.ndarray) -> list[str]:
    damaged = []
    unfinished = path.with_name(path.name + _UNFINISHED)
    try:
        with tf.io.TFRecordWriter(str(unfinished)) as writer:
            for number in piece:
                source = Path(images.paths[number])
                content = source.read_bytes()
                try:
                    image = tf.io.decode_image(content, channels=0, expand_animations=False)
                except (tf.errors.OpError, ValueError):
                    damaged.append(str(source))
                    tqdm.tqdm.write(f"Left out: {source} can't be decoded.")
                    continue
                label = int(images.labels[number])
                example = _example(content, image.shape, label + 1, images.classes[label], source)
                # The order of the features would differ from process to process.
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


def _example(content, shape, label, synset, path) -> tf.train.Example:
    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    height, width, channels = (int(n) for n in shape)
    values = {
        "image/encoded": content,
        "image/class/label": label,
        "image/class/synset": synset.encode(),
        "image/filename": path.name.encode(),
        "image/height": height,
        "image/width": width,
        "image/channels": channels,
        "image/format": b"JPEG" if content[:2] == b"\xff\xd8" else b"PNG",
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
    return text


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("data_dir", None, "The folder with train/ and val/.")
    flags.DEFINE_string("output_dir", None, "Where the TFRecords go.")
    flags.DEFINE_integer("train_shards", 1024, "Files of training images.", lower_bound=1)
    flags.DEFINE_integer("validation_shards", 128, "Files of validation images.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the shuffling.", 0, 2**32 - 1)
    flags.mark_flags_as_required(["data_dir", "output_dir"])


if __name__ == "__main__":
    command_line.run(main, define_flags)
