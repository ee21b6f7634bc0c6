import numpy as np
import pytest

from tests.train_val.data.files import RECORD, assert_one_sentence, write_cifar10
from train_val import data as image_data
from train_val.data import DataError, cifar10


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
