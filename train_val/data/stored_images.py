from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import tensorflow as tf


class Source(Protocol):
    """A store of images, which are read by their numbers."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def fetch(self, indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the tensors that `parse` needs for images (int64 [B]), along their first axes.

        Work that is faster for many images at a time belongs here, the rest belongs in `parse`,
        which runs for several images in parallel.
        """

    def parse(self, *fetched: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns one image, not decoded yet.

        Args:
          *fetched: The tensors that `fetch` returned for the image.

        Returns:
          The encoded image, a scalar string; the label, a scalar int64 counted from 0; and the
          boxes of the image's objects, float32 [1, n, 4], with ymin, xmin, ymax, xmax from 0 to 1,
          where n is 0 if they are not known.
        """

    def describe(self, index: int) -> str:
        """Returns the name of an image for messages."""

    def fingerprint(self) -> str:
        """Returns 16 digits that identify the set of images, wherever its folder is."""


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Labelled images on disk, too many for memory, that networks see as squares.

    Attributes:
      source: The store of the images.
      num_classes: The number of classes.
      image_size: The side of the squares that a network sees, in pixels.
      name: The name of the data in messages.
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
