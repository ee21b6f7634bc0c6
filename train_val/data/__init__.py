"""Data sets of images, and the batches for training and testing."""

from train_val.data.batches import Batches, test_batches
from train_val.data.image_data import DataError, ImageData
from train_val.data.loading import IMAGENET, NAMES, PARTS, SPLITS, load
from train_val.data.stored_batches import StoredBatches, StoredTestBatches
from train_val.data.stored_images import StoredImages

__all__ = [
    "IMAGENET",
    "NAMES",
    "PARTS",
    "SPLITS",
    "Batches",
    "DataError",
    "ImageData",
    "StoredBatches",
    "StoredImages",
    "StoredTestBatches",
    "load",
    "test_batches",
]
