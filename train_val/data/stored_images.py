from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import tensorflow as tf


class Source(Protocol):
    """Where images are stored, and how number i is read."""

    def __len__(self) -> int:
        """How many images there are."""

    def fetch(self, indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What `parse` needs of some images (int64 [B]); tensors whose first axis counts them.

        What is faster for many images at a time belongs here, the rest into `parse`, which runs
        for several images in parallel.
        """

    def parse(self, *fetched: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One image, not decoded yet.

        Returns:
          encoded: string, scalar.
          label: int64, scalar, counted from 0.
          boxes: float32 [1, n, 4], ymin, xmin, ymax, xmax of the image's objects from 0 to 1;
            n is 0 where they are not known.
        """

    def describe(self, index: int) -> str:
        """What a message calls the image."""

    def fingerprint(self) -> str:
        """16 digits that another set of images has not, wherever the folder stands."""


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Labelled images on disk, too many for memory, that networks see as squares.

    Attributes:
      source: Where they are.
      num_classes: How many classes there are.
      image_size: The side that a network sees, in pixels.
      name: What messages call the data.
    """

    source: Source
    num_classes: int
    image_size: int
    name: str

    def __len__(self) -> int:
        return len(self.source)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.image_size, self.image_size, 3
