"""Data sets of images, and the batches that training sees."""

from train_val.data.batches import Batches, test_batches
from train_val.data.image_data import DataError, ImageData
from train_val.data.loading import NAMES, PARTS, SPLITS, load

__all__ = [
    "NAMES",
    "PARTS",
    "SPLITS",
    "Batches",
    "DataError",
    "ImageData",
    "load",
    "test_batches",
]
