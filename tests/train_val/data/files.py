"""Small files of data sets, and what an error about one has to say."""

import gzip

import numpy as np

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
