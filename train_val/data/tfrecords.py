from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import tensorflow as tf

from replay import replace_file
from train_val.data.image_data import DataError

# A record is its length (8 bytes), a checksum of that (4), the data, and a checksum of it (4).
_LENGTH, _HEADER, _FOOTER = 8, 12, 4
# Indexing waits for the disk, not for the processor.
_THREADS = 16
# With more files, each is opened again for every record: a process may often keep 1,024 open.
_OPEN_FILES = 256
# Fewer records are indexed faster than a stored index is found.
_WORTH_KEEPING = 100_000


class TFRecordImages:
    """Images in TFRecord files, any of which can be read without those before it.

    The beginnings of the records are found once, by reading the lengths alone, and stored in the
    user's cache folder (`$XDG_CACHE_HOME/mlhf`) for large data sets.

    Attributes:
      files: The files, in order.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        encoded: str,
        label: str,
        first_label: int,
        boxes: str | None = None,
    ) -> None:
        """Indexes the files.

        Args:
          files: The TFRecord files; together they hold at least one record.
          encoded: The feature that holds a whole image file.
          label: The feature that holds the class.
          first_label: The number of the first class, which becomes 0.
          boxes: The beginning of the names of features with objects' boxes, which end in /ymin,
            /xmin, /ymax and /xmax. None if there are none.

        Raises:
          DataError: If a file can't be read, is truncated or damaged, or the first record of the
            first, the middle or the last file does not have these features.
        """
        self.files = [Path(file) for file in files]
        self._first_label, self._boxes = first_label, boxes
        self._names = encoded, label
        self._features = {
            encoded: tf.io.FixedLenFeature([], tf.string),
            label: tf.io.FixedLenFeature([], tf.int64),
        }
        self._corners = [f"{boxes}/{side}" for side in ("ymin", "xmin", "ymax", "xmax")]
        if boxes is not None:
            for corner in self._corners:
                self._features[corner] = tf.io.VarLenFeature(tf.float32)
        self._file_of, self._offsets, self._lengths = index_of(self.files)
        if not len(self._offsets):
            raise DataError(
                f"Expected images in {self.files[0].parent}, found {len(self.files)} TFRecord files"
                " without a record: make them anew."
            )
        self._descriptors: dict[int, int] = {}
        self._lock = threading.Lock()
        self._check_features()

    def __len__(self) -> int:
        return len(self._offsets)

    def __del__(self) -> None:
        for descriptor in getattr(self, "_descriptors", {}).values():
            # Modules may be gone when the interpreter ends.
            try:
                os.close(descriptor)
            except Exception:
                return

    def fetch(self, indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the records; see `Source`."""
        records = tf.numpy_function(self.read, [indices], tf.string)
        records.set_shape(indices.shape)
        return (records,)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the records with these numbers as bytes objects, empty for a damaged record."""
        records = [self._record(int(index)) for index in indices]
        # Not np.array(records), which cuts off zeros at the ends of strings.
        found = np.empty(len(records), object)
        found[:] = records
        return found

    def parse(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Takes a record apart; see `Source`."""
        found = tf.io.parse_single_example(record, self._features)
        encoded, label = self._names
        boxes = tf.zeros([1, 0, 4])
        if self._boxes is not None:
            corners = [tf.sparse.to_dense(found[corner]) for corner in self._corners]
            boxes = tf.stack(corners, axis=1)[tf.newaxis]
            # Boxes outside the image, or NaN, would stop TensorFlow's random crops.
            boxes = tf.clip_by_value(tf.where(tf.math.is_nan(boxes), 0.0, boxes), 0, 1)
        return found[encoded], found[label] - self._first_label, boxes

    def fingerprint(self) -> str:
        """Returns a digest of the files' names and sizes; see `Source`."""
        files = "\n".join(f"{file.name} {file.stat().st_size}" for file in self.files)
        return hashlib.sha256(files.encode()).hexdigest()[:16]

    def describe(self, index: int) -> str:
        """Returns the file and the record's number in it."""
        file = int(self._file_of[index])
        first = int(np.searchsorted(self._file_of, file))
        return f"record {index - first} of {self.files[file]}"

    def _record(self, index: int) -> bytes:
        file, offset = int(self._file_of[index]), int(self._offsets[index])
        length = int(self._lengths[index])
        if len(self.files) > _OPEN_FILES:
            with open(self.files[file], "rb", buffering=0) as opened:
                found = os.pread(opened.fileno(), length + _FOOTER, offset)
        else:
            with self._lock:
                if file not in self._descriptors:
                    self._descriptors[file] = os.open(self.files[file], os.O_RDONLY)
            found = os.pread(self._descriptors[file], length + _FOOTER, offset)
        record, footer = found[:length], found[length:]
        # An empty record has no features, and is left out like an image that can't be decoded.
        return record if footer == _checksum(record) else b""

    def _check_features(self) -> None:
        # Only a few files: reading from all could delay the first epoch.
        files = np.unique(self._file_of)
        for file in {int(files[0]), int(files[len(files) // 2]), int(files[-1])}:
            self._check_record(int(np.searchsorted(self._file_of, file)))

    def _check_record(self, index: int) -> None:
        file = self.files[int(self._file_of[index])]
        record = self.read(np.array([index]))[0]
        if not record:
            return  # empty or damaged: left out and reported when its batch comes
        example = tf.train.Example()
        try:
            example.ParseFromString(record)
        except Exception as error:  # protobuf's own, which differ between its versions
            raise DataError(
                f"Expected {self.describe(index)} to be a tf.train.Example, could not read it"
                f" ({error}): make the files anew."
            ) from error
        features = example.features.feature
        missing = sorted(set(self._names).difference(features))
        if missing:
            raise DataError(
                f"Expected the features {sorted(self._names)} in {file}, found"
                f" {sorted(features)} without {missing}: it is another data set."
            )
        for name, kind in zip(self._names, ("bytes_list", "int64_list"), strict=True):
            found = features[name].WhichOneof("kind")
            count = len(getattr(features[name], found).value) if found else 0
            if found != kind or count != 1:
                raise DataError(
                    f"Expected in {file} the feature {name} with one value as {kind}, found"
                    f" {count} as {found} in {self.describe(index)}: it is another data set."
                )


def index_of(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the records of TFRecord files; their contents are not looked at.

    Args:
      files: The paths of the files.

    Returns:
      The file's number, the place of the first byte and the length of each record's data, as
      int32, int64 and int64 [N].

    Raises:
      DataError: If a file can't be read, ends within a record, or is not a TFRecord file.
    """
    stored = _stored_index(files)
    if stored is not None and stored.is_file():
        with contextlib.suppress(Exception):  # a damaged index is made anew
            return _read_index(stored)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        columns = list(threads.map(_records, files))
    counts = [len(offsets) for offsets, _ in columns]
    numbers = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    offsets, lengths = (np.concatenate(column) for column in zip(*columns, strict=True))
    if stored is not None and len(offsets) >= _WORTH_KEEPING:
        # The index is for speed: without room for it, it is made each time.
        with contextlib.suppress(OSError):
            stored.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(stored) as file:
                np.savez(file, files=numbers, offsets=offsets, lengths=lengths)
    return numbers, offsets, lengths


def _read_index(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(path) as index:
        found = index["files"], index["offsets"], index["lengths"]
    dtypes = tuple(array.dtype for array in found)
    if dtypes != (np.int32, np.int64, np.int64) or len({array.shape for array in found}) > 1:
        raise ValueError(f"{path} is no index.")
    return found


def _records(path: Path) -> tuple[np.ndarray, np.ndarray]:
    offsets: list[int] = []
    lengths: list[int] = []
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size, place = os.fstat(descriptor).st_size, 0
            while place < size:
                header = os.pread(descriptor, _HEADER, place)
                if len(header) == _HEADER and header[_LENGTH:] != _checksum(header[:_LENGTH]):
                    raise DataError(
                        f"Expected TFRecords in {path}, found none at byte {place:,}, where record"
                        f" {len(offsets)} would begin (wrong checksum): it is damaged or something"
                        " else, copy or make it anew."
                    )
                length = struct.unpack("<Q", header[:8])[0] if len(header) == _HEADER else size
                end = place + _HEADER + length + _FOOTER
                if end > size:
                    raise DataError(
                        f"Expected {path} to end with a whole TFRecord, record {len(offsets)},"
                        f" which begins at byte {place:,}, goes on to byte {end:,} and the file"
                        f" ends at {size:,}: it was cut short or damaged, copy or make it anew."
                    )
                offsets.append(place + _HEADER)
                lengths.append(length)
                place = end
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(
            f"Expected to read {path}, could not ({error.strerror}): copy or make it anew."
        ) from error
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def _checksum(data: bytes) -> bytes:
    """Returns the checksum after the data in a TFRecord file: its CRC-32C, turned and shifted."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _stored_index(files: Sequence[Path]) -> Path | None:
    digest = hashlib.sha256()
    try:
        for file in files:
            status = file.stat()
            digest.update(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    except OSError:
        return None  # _records raises an error with a sentence
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mlhf" / f"tfrecords-{digest.hexdigest()[:32]}.npz"
