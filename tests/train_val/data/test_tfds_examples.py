import sys

import pytest

from tests.train_val.data.files import assert_one_sentence
from train_val import data as image_data
from train_val.data import DataError, tfds_examples


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


@pytest.mark.parametrize("name", ["cifar10", "mnist", "imagenet"])
def test_without_tensorflow_datasets_a_sentence_says_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError) as error:
        image_data.load(name, part="test")
    assert_one_sentence(error, name, "pip install", "tensorflow-datasets", "data_dir")
