import numpy as np
import pytest

from train_val.data import DataError, ImageData


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
