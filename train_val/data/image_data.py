from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class DataError(ValueError):
    """Raised when data is missing, damaged or not what it should be; the text says what to do."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images in memory, with their standardisation and augmentation.

    Attributes:
      images: The images, uint8 [N, height, width, channels].
      labels: The labels, int32 [N], each in 0 ... num_classes - 1.
      num_classes: The number of classes, whether or not all occur here.
      name: The name of the data in messages.
      pixel_mean: The number subtracted from every pixel before it is divided by `pixel_std`. None
        standardises each image by its own mean and deviation.
      pixel_std: The number that pixels are divided by; given together with `pixel_mean`.
      augment: Whether images are shifted and mirrored at random in training.

    Raises:
      DataError: If an array has another shape or dtype, there is no image, or a label is out
        of range.
    """

    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    name: str
    pixel_mean: float | None = None
    pixel_std: float | None = None
    augment: bool = False

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
            raise DataError(
                f"{self.name}: expected images as uint8 [N, height, width, channels] with N of"
                f" at least 1, got {images.dtype} {list(images.shape)}: convert them first."
            )
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{self.name}: expected labels as int32 [{len(images)}], one for each image, got"
                f" {labels.dtype} {list(labels.shape)}: convert them first."
            )
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise DataError(
                f"{self.name}: expected labels from 0 to {self.num_classes - 1}, found"
                f" {labels.min()} to {labels.max()}: the data is damaged or of another data set."
            )
        if (self.pixel_mean is None) != (self.pixel_std is None):
            raise DataError(
                f"{self.name}: expected pixel_mean and pixel_std together or neither, got"
                f" {self.pixel_mean} and {self.pixel_std}: give both."
            )
        if self.pixel_std is not None and not self.pixel_std > 0:
            raise DataError(
                f"{self.name}: expected a pixel_std above 0, got {self.pixel_std}: give the"
                " standard deviation of the pixels."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels
