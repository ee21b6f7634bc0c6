from __future__ import annotations

import os

import numpy as np

from train_val.data.image_data import ImageData

_META_TRAIN, _TRAIN = 750, 750  # of 1,797; the other 297 are for testing
# Mean and deviation of all pixels, which range from 0 to 16.
_PIXEL_MEAN, _PIXEL_STD = 4.884, 6.017


def load_digits(data_dir: str | os.PathLike[str] | None, part: str, split: str) -> ImageData:
    """Loads the handwritten digits of scikit-learn: 1,797 grey images of 8 x 8 pixels.

    Pixels keep their values from 0 to 16. The parts are disjoint: 750 images for
    "meta_train", 750 for "train" and 297 for "test", drawn once from a fixed shuffle.
    Networks see (pixel - 4.884) / 6.017, the mean and deviation of all pixels.

    Args:
      data_dir: Not used, since the images come with scikit-learn.
      part: "meta_train", "train" or "test".
      split: Not used, since there is only one.

    Returns:
      The images and labels of the part.
    """
    # scikit-learn takes a second to import: only those who ask for digits wait for it.
    from sklearn.datasets import load_digits as sklearn_load_digits

    bunch = sklearn_load_digits()
    # The numbers of RandomState never change: the parts are the same under every NumPy.
    order = np.random.RandomState(0).permutation(len(bunch.images))
    chosen = {
        "meta_train": order[:_META_TRAIN],
        "train": order[_META_TRAIN : _META_TRAIN + _TRAIN],
        "test": order[_META_TRAIN + _TRAIN :],
    }[part]
    return ImageData(
        bunch.images[chosen].astype(np.uint8)[..., np.newaxis],
        bunch.target[chosen].astype(np.int32),
        10,
        "digits",
        _PIXEL_MEAN,
        _PIXEL_STD,
    )
