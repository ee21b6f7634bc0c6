import gzip
import tracemalloc

import numpy as np
import pytest

from tests.train_val.data.files import assert_one_sentence, write_idx
from train_val import data as image_data
from train_val.data import DataError, mnist


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
