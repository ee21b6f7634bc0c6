import gzip
import sys
import tracemalloc

import numpy as np
import pytest

from train_val import data as image_data
from train_val.data import DataError, ImageData, cifar10, mnist, tfds_examples

RECORD = 3073


def write_cifar10(path, labels, seed=0):
    records = np.random.default_rng(seed).integers(0, 256, (len(labels), RECORD), np.uint8)
    records[:, 0] = labels
    records.tofile(path)
    return records


def write_idx(path, array, magic=None):
    magic = 0x800 + array.ndim if magic is None else magic
    content = np.array([magic, *array.shape], ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def assert_one_sentence(error, *found):
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("Expected")
    for words in found:
        assert str(words) in text


# CIFAR-10


def test_cifar10_record_by_hand(tmp_path):
    record = np.zeros(RECORD, np.uint8)
    record[0] = 9
    record[1 + 0 * 1024 + 0] = 11  # red of row 0, column 0
    record[1 + 1 * 1024 + 1] = 12  # green of row 0, column 1
    record[1 + 2 * 1024 + 32 * 31 + 2] = 13  # blue of row 31, column 2
    record.tofile(tmp_path / "a.bin")
    images, labels = cifar10.read_batch(tmp_path / "a.bin", records=1)
    expected = np.zeros((1, 32, 32, 3), np.uint8)
    expected[0, 0, 0, 0], expected[0, 0, 1, 1], expected[0, 31, 2, 2] = 11, 12, 13
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, [9])
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def test_cifar10_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10.read_batch, "__defaults__", (4,))
    monkeypatch.setattr(cifar10, "RECORDS_A_FILE", 4)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for n in range(1, 6):
        write_cifar10(folder / f"data_batch_{n}.bin", [n] * 4, seed=n)
    write_cifar10(folder / "test_batch.bin", [0] * 4)
    batches = {
        ("original", "meta_train"): [1, 2, 3],
        ("original", "train"): [4, 5],
        ("original", "test"): [0],
        ("standard", "meta_train"): [1, 2, 3, 4, 5],
        ("standard", "train"): [1, 2, 3, 4, 5],
        ("standard", "test"): [0],
    }
    for (split, part), labels in batches.items():
        for data_dir in (tmp_path, folder, str(folder)):
            data = image_data.load("cifar10", data_dir, part=part, split=split)
            np.testing.assert_array_equal(data.labels, np.repeat(labels, 4))
    # As tensorflow-datasets gives them: shuffled, with an id that tells the order.
    files = [folder / f"data_batch_{n}.bin" for n in range(1, 6)]
    images, labels = map(np.concatenate, zip(*map(cifar10.read_batch, files), strict=True))
    order = np.random.default_rng(0).permutation(20)
    examples = {
        "id": np.array([f"train_{i:05d}".encode() for i in order]),
        "image": images[order],
        "label": labels[order].astype(np.int64),
    }
    monkeypatch.setattr(cifar10, "tfds_examples", lambda name, split: examples)
    for part in ("meta_train", "train"):
        downloaded = image_data.load("cifar10", part=part)
        read = image_data.load("cifar10", tmp_path, part=part)
        np.testing.assert_array_equal(downloaded.images, read.images)
        np.testing.assert_array_equal(downloaded.labels, read.labels)


def test_cifar10_missing_folder(tmp_path):
    with pytest.raises(DataError) as error:
        image_data.load("cifar10", tmp_path, part="test")
    assert_one_sentence(error, tmp_path, "found none", "cifar10_download_and_extract.py")


def test_cifar10_missing_file(tmp_path):
    write_cifar10(tmp_path / "data_batch_1.bin", [0])
    with pytest.raises(DataError) as error:
        image_data.load("cifar10", tmp_path, part="test")
    assert_one_sentence(error, tmp_path / "test_batch.bin", "No such file")


@pytest.mark.parametrize("size", [0, 30_730_000 - 1, 30_730_000 - RECORD, 30_730_000 + 1])
def test_cifar10_truncated(tmp_path, size):
    path = tmp_path / "test_batch.bin"
    with open(path, "wb") as file:
        file.truncate(size)
    with pytest.raises(DataError) as error:
        image_data.load("cifar10", tmp_path, part="test")
    assert_one_sentence(error, path, f"found {size:,} bytes", "10,000 records")


def test_cifar10_label_out_of_range(tmp_path):
    path = tmp_path / "test_batch.bin"
    write_cifar10(path, [0, 9, 10, 3])
    with pytest.raises(DataError) as error:
        cifar10.read_batch(path, records=4)
    assert_one_sentence(error, path, "found 10 in record 2")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train.bin", "test.bin"], "CIFAR-100's"),
        (["cifar-100-binary"], "CIFAR-100's"),
        (["data_batch_1", "test_batch"], "the version for Python"),
        (["cifar-10-batches-py"], "the version for Python"),
    ],
)
def test_cifar10_of_another_kind(tmp_path, names, found):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError) as error:
        image_data.load("cifar10", tmp_path, part="test")
    assert_one_sentence(error, found)
    with open(tmp_path / "test_batch.bin", "wb") as file:
        file.truncate(3074 * 10_000)
    with pytest.raises(DataError) as error:
        image_data.load("cifar10", tmp_path, part="test")
    assert_one_sentence(error, tmp_path / "test_batch.bin", "as CIFAR-100 has them")


@pytest.mark.data
def test_cifar10_real(data_dir):
    data = image_data.load("cifar10", data_dir, part="test")
    assert data.images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(data.labels), [1000] * 10)
    np.testing.assert_array_equal(data.labels[:5], [3, 8, 8, 0, 6])  # cat, ship, ship, plane, frog
    np.testing.assert_array_equal(data.images[0, 0, 0], [158, 112, 49])


# MNIST


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_META_TRAIN", 3)
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", 6), ("t10k", 2)):
        arrays[prefix] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", arrays[prefix])
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8))
    return arrays


def test_mnist_parts(tmp_path, small_mnist):
    train = small_mnist["train"]
    parts = {"meta_train": train[:3], "train": train[3:], "test": small_mnist["t10k"]}
    for part, images in parts.items():
        data = image_data.load("mnist", tmp_path, part=part)
        np.testing.assert_array_equal(data.images, images[..., np.newaxis])
    np.testing.assert_array_equal(
        image_data.load("mnist", tmp_path, part="train").labels, [3, 4, 5]
    )
    examples = {"image": train[..., np.newaxis], "label": np.arange(6)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "tfds_examples", lambda name, split: examples)
        data = image_data.load("mnist", part="train")
    np.testing.assert_array_equal(data.images, train[3:, ..., np.newaxis])
    np.testing.assert_array_equal(data.labels, [3, 4, 5])


def test_mnist_missing(tmp_path):
    with pytest.raises(DataError) as error:
        image_data.load("mnist", tmp_path, part="train")
    assert_one_sentence(error, "train-images-idx3-ubyte.gz", tmp_path, "found neither")


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_idx_damaged(tmp_path, name):
    path = tmp_path / name
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(mnist.read_idx(write_idx(path, array), 0x803), array)

    write_idx(path, array, magic=0x801)
    with pytest.raises(DataError) as error:
        mnist.read_idx(path, 0x803)
    assert_one_sentence(error, path, "0x00000803", "0x00000801")

    whole = gzip.compress if path.suffix == ".gz" else bytes
    header = np.array([0x803, 2, 3, 4], ">u4").tobytes()
    for content in (header + bytes(23), header + bytes(25)):
        path.write_bytes(whole(content))
        with pytest.raises(DataError) as error:
            mnist.read_idx(path, 0x803)
        assert_one_sentence(error, path, "40 bytes", f"found {len(content)}")
    for content in (b"", b"\0\0", header[:8]):
        path.write_bytes(whole(content))
        with pytest.raises(DataError) as error:
            mnist.read_idx(path, 0x803)
        assert_one_sentence(error, path)


def test_idx_broken_gzip(tmp_path):
    path = write_idx(tmp_path / "images.gz", np.zeros((50, 28, 28), np.uint8))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[20] ^= 0xFF
    for content in (whole[:-12], b"not gzip", bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(DataError) as error:
            mnist.read_idx(path, 0x803)
        assert_one_sentence(error, path, "could not read")


def test_mnist_counts_differ(tmp_path, small_mnist):
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.zeros(5, np.uint8))
    with pytest.raises(DataError) as error:
        image_data.load("mnist", tmp_path, part="test")
    assert_one_sentence(error, "2 images", "5 labels")


@pytest.mark.parametrize(
    ("name", "array", "found"),
    [
        ("t10k-images-idx3-ubyte", np.zeros((2, 14, 56), np.uint8), "28 x 28 .*found 14 x 56"),
        ("t10k-images-idx3-ubyte", np.zeros((2, 784, 1), np.uint8), "28 x 28 .*found 784 x 1"),
        ("t10k-images-idx3-ubyte", np.zeros((0, 28, 28), np.uint8), "found 0 images"),
        ("t10k-images-idx3-ubyte", np.zeros((2, 28), np.uint8), "0x00000803, found 0x00000802"),
        ("t10k-labels-idx1-ubyte.gz", np.array([3, 10], np.uint8), "from 0 to 9 .*found 3 to 10"),
        ("t10k-labels-idx1-ubyte.gz", np.zeros((2, 2), np.uint8), "0x00000801, found 0x00000802"),
        ("train-images-idx3-ubyte", np.zeros((3, 28, 28), np.uint8), "6 labels|more than 3 images"),
    ],
)
def test_mnist_files_of_another_data_set(tmp_path, small_mnist, name, array, found):
    write_idx(tmp_path / name, array)
    with pytest.raises(DataError, match=found) as error:
        image_data.load("mnist", tmp_path, part="train" if "train" in name else "test")
    assert_one_sentence(error, tmp_path / name)


def test_mnist_labels_are_those_beside_the_images(tmp_path, small_mnist):
    """Two folders may hold two data sets of the same number of images."""
    (tmp_path / "mnist").mkdir()
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    labels.rename(tmp_path / "mnist" / labels.name)
    with pytest.raises(DataError, match="t10k-") as error:
        image_data.load("mnist", tmp_path, part="test")
    assert_one_sentence(error, "in " + str(tmp_path), "found neither")
    write_idx(tmp_path / "mnist" / "t10k-images-idx3-ubyte", small_mnist["t10k"][::-1].copy())
    found = image_data.load("mnist", tmp_path, part="test")
    np.testing.assert_array_equal(found.images[..., 0], small_mnist["t10k"][::-1])


def test_idx_unpacks_no_more_than_its_header_says(tmp_path):
    path = tmp_path / "images.gz"
    header = np.array([0x803, 1, 28, 28], ">u4").tobytes()
    with gzip.open(path, "wb") as file:
        file.write(header)
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(DataError, match="Expected 800 bytes .*found 801 or more"):
        mnist.read_idx(path, 0x803, (28, 28))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    header = np.array([0x803, 2**32 - 1, 28, 28], ">u4").tobytes()
    path.write_bytes(gzip.compress(header))
    with pytest.raises(DataError, match="at most 1,073,741,824 bytes in .* its header says 3,367,"):
        mnist.read_idx(path, 0x803, (28, 28))


@pytest.mark.data
def test_mnist_real(data_dir):
    parts = [image_data.load("mnist", data_dir, part=part) for part in image_data.PARTS]
    assert [len(part) for part in parts] == [30_000, 30_000, 10_000]
    np.testing.assert_array_equal(parts[2].labels[:5], [7, 2, 1, 0, 4])
    pixels = np.concatenate([part.images for part in parts[:2]])
    np.testing.assert_allclose(pixels.mean(), parts[0].pixel_mean, rtol=1e-3)
    np.testing.assert_allclose(pixels.std(), parts[0].pixel_std, rtol=1e-3)


# digits


def test_digits_parts_are_disjoint_and_complete():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    parts = [image_data.load("digits", part=part) for part in image_data.PARTS]
    assert [len(part) for part in parts] == [750, 750, 297]
    images = np.concatenate([part.images for part in parts])[..., 0]
    labels = np.concatenate([part.labels for part in parts])
    assert images.max() == 16
    np.testing.assert_allclose(images.mean(), parts[0].pixel_mean, rtol=1e-3)
    np.testing.assert_allclose(images.std(), parts[0].pixel_std, rtol=1e-3)
    order = np.random.RandomState(0).permutation(1797)
    np.testing.assert_array_equal(images, bunch.images[order])
    np.testing.assert_array_equal(labels, bunch.target[order])


def test_digits_are_the_same_at_every_call():
    first, second = (image_data.load("digits", part="train") for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    # A figure that is published rests on this order.
    np.testing.assert_array_equal(first.labels[:10], [4, 5, 3, 8, 0, 9, 0, 3, 2, 0])


# what is asked for, and downloads


@pytest.mark.parametrize(
    "name, options, found",
    [
        ("cifar100", dict(part="train"), "cifar10, digits, mnist, imagenet"),
        ("digits", dict(part="validation"), "meta_train, train, test"),
        ("cifar10", dict(part="train", split="mine"), "original, standard"),
        ("digits", dict(part="train", split="standard"), "CIFAR-10's only"),
    ],
)
def test_unknown_names(name, options, found):
    with pytest.raises(ValueError, match=found):
        image_data.load(name, **options)


class Builder:
    """What stands for a data set of tensorflow-datasets that is not prepared yet."""

    name = "cifar10"

    def __init__(self, url, error=None):
        self.url_infos = {url: None}
        self.error = error

    def is_prepared(self):
        return False

    def download_and_prepare(self):
        raise self.error


@pytest.fixture
def tfds_builder(monkeypatch):
    def use(builder):
        class Module:
            @staticmethod
            def builder(name):
                return builder

        monkeypatch.setitem(sys.modules, "tensorflow_datasets", Module)

    return use


def test_no_network(tfds_builder):
    # Nothing listens on port 1 of this machine: it refuses as a machine without network does.
    tfds_builder(Builder("http://127.0.0.1:1/cifar.tar.gz"))
    with pytest.raises(DataError) as error:
        image_data.load("cifar10", part="test")
    assert_one_sentence(error, "cifar10 from tensorflow-datasets", "refused", "data_dir")


def test_failing_download(tfds_builder, tmp_path):
    path = tmp_path / "archive"
    path.write_bytes(b"")
    builder = Builder(path.as_uri(), RuntimeError("wrong checksum\nand a long story"))
    tfds_builder(builder)
    with pytest.raises(DataError) as error:
        tfds_examples.tfds_examples("cifar10", "test")
    assert_one_sentence(error, "(wrong checksum)", "data_dir")


# ImageData


def test_image_data():
    images, labels = np.zeros((5, 4, 3, 2), np.uint8), np.arange(5, dtype=np.int32)
    data = ImageData(images, labels, 5, "mine")
    assert len(data) == 5
    assert data.image_shape == (4, 3, 2)
    for changes, found in [
        (dict(images=images.astype(np.float32)), "float32"),
        (dict(images=images[0]), r"\[4, 3, 2\]"),
        (dict(images=images[:0], labels=labels[:0]), "N of at least 1"),
        (dict(labels=labels.astype(np.int64)), "int64"),
        (dict(labels=labels[:4]), r"int32 \[4\]"),
        (dict(num_classes=4), "from 0 to 3, found 0 to 4"),
        (dict(labels=labels - 1), "found -1 to 3"),
        (dict(pixel_mean=1.0), "together"),
        (dict(pixel_mean=1.0, pixel_std=0.0), "above 0"),
    ]:
        arguments = dict(images=images, labels=labels, num_classes=5, name="mine") | changes
        with pytest.raises(DataError, match=found):
            ImageData(**arguments)
