"""A network, the images that it is trained and tested on, and what is measured of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import custom_op
import mlhf
from mlhf.models import keras_models
from mlhf.models.moving_statistics import PopulationStatistics
from train_val.data import ImageData, StoredImages, StoredTestBatches, test_batches

# Images that are tested at a time.
TEST_BATCH = 500
# Photographs are larger.
STORED_TEST_BATCH = 100
# A data set of so many images is kept standardised, in batches, once it was tested on.
KEPT_IMAGES = 5000
# Of a data set too large for memory the training loss is that of so many images, evenly spread.
LARGEST_TRAINING_SAMPLE = 10_000
# Statistics of normalisation are taken over so many.
POPULATION = 2000


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network, the images that it is trained on, and those that it is tested on.

    Attributes:
      name: Of the network.
      model: A built Keras model; its own weights are those of seed 0.
      train: The images of the training part asked for.
      test: The images to test on.
      task: For `mlhf.meta_train`, and for training by hand.
      channels_first: Whether images come as [channels, height, width].
      train_sample: The training loss is that of so many images, evenly spread; None for all.
      test_sample: The same of the accuracy.
      batch_size: Of training.
      statistics: What `population_state` gives: `"population"` for statistics taken anew, or
        `"moving"` for the moving averages as they are, as the paper has them.
    """

    name: str
    model: keras.Model
    train: ImageData | StoredImages
    test: ImageData | StoredImages
    task: mlhf.Task
    channels_first: bool = False
    train_sample: int | None = None
    test_sample: int | None = None
    batch_size: int = 0
    statistics: str = "population"

    def __repr__(self) -> str:
        """What is trained on what, in a line."""
        return (
            f"Problem({self.task.name!r}, {len(self.train):,} training and {len(self.test):,} test "
            f"images, {self.model.count_params():,} weights)"
        )

    def accuracy(self, parameters: Any, model_state: Any = None) -> float:
        """Returns the share of the test images that are classified right.

        Args:
          parameters: A dictionary from paths to tensors.
          model_state: As `mlhf.get_model_state` gives it; None for the model's own.
        """
        return self._mean(parameters, model_state, self.test, _hits)

    def training_loss(self, parameters: Any, model_state: Any = None) -> float:
        """Returns the mean loss over the training images, not augmented, with the regularizer.

        Over all of them or `train_sample`; of images that stay on the disk over 10,000 at most,
        evenly spread.

        Args:
          parameters: As for `accuracy`.
          model_state: As for `accuracy`.
        """
        loss = self._mean(parameters, model_state, self.train, _losses)
        if self.task.regularizer is not None:
            loss += float(self.task.regularizer.value(parameters))
        return loss

    @property
    def normalised(self) -> bool:
        """Whether the network has moving statistics, which `population_state` takes anew."""
        return bool(self._statistics)

    def population_state(self, parameters: Any, model_state: Any = None) -> Any:
        """Returns a model state whose moving statistics are those of training images, right now.

        Moving statistics lag behind: with the original's 0.997 they are mostly their initial
        values for the first hundred steps, whatever an optimizer does
        (`mlhf.population_statistics`).

        Args:
          parameters: As for `accuracy`.
          model_state: As for `accuracy`.

        Returns:
          The state, statistics taken over 2,000 training images: the first that `training_loss`
          measures, or of images that stay on the disk, which may lie there class by class, some
          from everywhere in a mixed order. For a network without normalisation, or with
          `statistics` of `"moving"`, what came.
        """
        if not self.normalised or self.statistics == "moving":
            return model_state
        state = model_state or mlhf.get_model_state(self.model) or {}
        names = sorted(state)

        def enough() -> Iterator[tf.Tensor]:
            seen = 0
            for inputs, _ in self._population:
                yield inputs
                seen += inputs.shape[0]
                if seen >= POPULATION:
                    return

        taken = self._statistics(
            self._values(parameters), [state[name] for name in names], enough()
        )
        return dict(zip(names, taken, strict=True))

    def _values(self, parameters: Any) -> list[tf.Tensor]:
        return [parameters[variable.path] for variable in self.model.trainable_variables]

    def _mean(
        self,
        parameters: Any,
        model_state: Any,
        data: ImageData | StoredImages,
        score: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    ) -> float:
        values = self._values(parameters)
        state = model_state or mlhf.get_model_state(self.model) or {}
        state = [state[name] for name in sorted(state)]
        total, seen = 0.0, 0
        for inputs, labels in self._test_batches(data):
            total += float(score(self._infer(values, state, inputs), labels))
            seen += len(labels)
        return total / seen

    @property
    def measured_images(self) -> int:
        """How many images `training_loss` is the loss of."""
        whole = len(self.train)
        largest = LARGEST_TRAINING_SAMPLE if isinstance(self.train, StoredImages) else whole
        return min(self.train_sample or largest, whole)

    @property
    def tested_images(self) -> int:
        """How many images `accuracy` is measured on."""
        return min(self.test_sample or len(self.test), len(self.test))

    @property
    def population_images(self) -> int:
        """How many training images `population_state` takes statistics of."""
        stored = isinstance(self.train, StoredImages)
        return min(POPULATION, len(self.train) if stored else self.measured_images)

    @property
    def image_fingerprint(self) -> str | None:
        """What tells these images from others of as many; None for those of a data set's name."""
        if not isinstance(self.train, StoredImages) or not isinstance(self.test, StoredImages):
            return None
        return f"{self.train.source.fingerprint()} {self.test.source.fingerprint()}"

    @functools.cached_property
    def _population(self) -> Iterable:
        """Batches that `population_state` begins with; made once, so that damage is named once."""
        if not isinstance(self.train, StoredImages):
            return self._test_batches(self.train)
        dtype = tf.as_dtype(self.model.compute_dtype)
        size = min(STORED_TEST_BATCH, len(self.train))
        first = self.channels_first
        return StoredTestBatches(self.train, size, dtype, first, limit=POPULATION, mixed=True)

    def _test_batches(self, data: ImageData | StoredImages) -> Iterable:
        if id(data) not in self._kept:
            dtype = tf.as_dtype(self.model.compute_dtype)
            batches: Iterable
            sample = self.train_sample if data is self.train else self.test_sample
            if isinstance(data, StoredImages):
                batches = StoredTestBatches(
                    data,
                    min(STORED_TEST_BATCH, len(data)),
                    dtype,
                    self.channels_first,
                    limit=self.measured_images if data is self.train else sample,
                )
            else:
                measured = _spread(data, sample)
                batches = test_batches(
                    measured,
                    min(TEST_BATCH, len(measured)),
                    dtype,
                    channels_first=self.channels_first,
                )
                if len(measured) <= KEPT_IMAGES:
                    batches = list(batches)
            self._kept[id(data)] = data, batches
        return self._kept[id(data)][1]

    @functools.cached_property
    def _kept(self) -> dict[int, tuple[ImageData | StoredImages, Iterable]]:
        """Batches to test on, made once: as tensors of a small data set, else as a pipeline."""
        return {}

    @functools.cached_property
    def _statistics(self) -> PopulationStatistics:
        """Of the model's normalisations."""
        return PopulationStatistics(self.model)

    @functools.cached_property
    def _infer(self) -> Callable:
        """A compiled call of the model in inference mode."""
        return tf.function(
            lambda values, state, inputs: keras_models.outputs_of(
                self.model, values, state, inputs, custom_op.losses.get("softmax_cross_entropy")
            ),
            autograph=False,
            reduce_retracing=True,
        )


def _spread(data: ImageData, sample: int | None) -> ImageData:
    """Returns so many of the images, evenly spread."""
    if sample is None or sample >= len(data):
        return data
    chosen = np.linspace(0, len(data) - 1, sample).round().astype(int)
    return dataclasses.replace(data, images=data.images[chosen], labels=data.labels[chosen])


def _hits(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(tf.argmax(outputs, -1, tf.int32) == labels, tf.float64))


def _losses(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(
        tf.cast(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs), tf.float64)
    )
