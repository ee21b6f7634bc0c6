from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class DataError(ValueError):
    """Data that is missing, damaged or not what it should be; the text says what to do."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images in memory, and how a network wants to see them.

    Attributes:
      images: Uint8 [N, height, width, channels].
      labels: Int32 [N], each in 0 ... num_classes - 1.
      num_classes: How many classes there are, whether or not all occur here.
      name: What messages call the data.
      pixel_mean: Subtracted from every pixel before it is divided by `pixel_std`. None
        (the default): each image is standardised by its own mean and deviation.
      pixel_std: See `pixel_mean`; the two are given together.
      augment: Whether training shows each image shifted and mirrored at random.

    Raises:
      DataError: An array has another shape or dtype, there is no image, or a label is out
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
                f"{self.name}: expected labels as int32 [{len(images)}], one an image, got"
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
