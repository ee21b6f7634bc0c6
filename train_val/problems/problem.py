"""A network with the images that it is trained and tested on, and its measurements."""

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

# The number of images tested at a time.
TEST_BATCH = 500
# Photographs are larger.
STORED_TEST_BATCH = 100
# A data set of at most this many images stays in memory, standardised and in batches, once it was
# tested on.
KEPT_IMAGES = 5000
# For a data set too large for memory, the training loss is measured on this many images.
LARGEST_TRAINING_SAMPLE = 10_000
# The number of images for statistics of normalisation.
POPULATION = 2000


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network, the images that it is trained on, and those that it is tested on.

    Attributes:
      name: The name of the network.
      model: A built Keras model; its own weights are those of seed 0.
      train: The images to train on, those of the training part that was asked for.
      test: The images to test on.
      task: The task for `mlhf.meta_train`, and for training by hand.
      channels_first: Whether images come as [channels, height, width].
      train_sample: The number of images, evenly spread, that the training loss is measured on;
        None for all.
      test_sample: The number of images that the accuracy is measured on; None for all.
      batch_size: The batch size in training.
      statistics: The statistics that `population_state` returns: `"population"` for newly computed
        ones, or `"moving"` for the moving averages, as in the paper.
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
        """Describes the problem in a line."""
        return (
            f"Problem({self.task.name!r}, {len(self.train):,} training and {len(self.test):,} test "
            f"images, {self.model.count_params():,} weights)"
        )

    def accuracy(self, parameters: Any, model_state: Any = None) -> float:
        """Returns the share of the test images that are classified right.

        Args:
          parameters: A dictionary from paths to tensors.
          model_state: A state as `mlhf.get_model_state` returns it; None for the model's own.
        """
        return self._mean(parameters, model_state, self.test, _hits)

    def training_loss(self, parameters: Any, model_state: Any = None) -> float:
        """Returns the mean loss over the training images, not augmented, with the regularizer.

        The mean is over all images or `train_sample`; for images that stay on the disk, over at
        most 10,000, evenly spread.

        Args:
          parameters: A dictionary from paths to tensors.
          model_state: A state, as for `accuracy`.
        """
        loss = self._mean(parameters, model_state, self.train, _losses)
        if self.task.regularizer is not None:
            loss += float(self.task.regularizer.value(parameters))
        return loss

    @property
    def measured(self) -> str:
        """What `accuracy` returns, in words."""
        return "test accuracy"

    @property
    def normalised(self) -> bool:
        """Whether the network has moving statistics, which `population_state` replaces."""
        return bool(self._statistics)

    def population_state(self, parameters: Any, model_state: Any = None) -> Any:
        """Returns a model state with the statistics of training images at the current parameters.

        Moving statistics lag behind: with the original's 0.997 they are mostly their initial
        values for the first hundred steps, whatever an optimizer does
        (`mlhf.population_statistics`).

        Args:
          parameters: A dictionary from paths to tensors.
          model_state: A state, as for `accuracy`.

        Returns:
          The state, with statistics over 2,000 training images: the first that `training_loss`
          measures, or, for images that stay on the disk and may be sorted by class there, a mixture
          from everywhere. Without normalisation, or if `statistics` is `"moving"`, `model_state`.
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
        """The number of images that `training_loss` is measured on."""
        whole = len(self.train)
        largest = LARGEST_TRAINING_SAMPLE if isinstance(self.train, StoredImages) else whole
        return min(self.train_sample or largest, whole)

    @property
    def tested_images(self) -> int:
        """The number of images that `accuracy` is measured on."""
        return min(self.test_sample or len(self.test), len(self.test))

    @property
    def population_images(self) -> int:
        """The number of training images that `population_state` computes statistics of."""
        stored = isinstance(self.train, StoredImages)
        return min(POPULATION, len(self.train) if stored else self.measured_images)

    @property
    def image_fingerprint(self) -> str | None:
        """A digest that identifies stored images; None if the data set's name identifies them."""
        if not isinstance(self.train, StoredImages) or not isinstance(self.test, StoredImages):
            return None
        return f"{self.train.source.fingerprint()} {self.test.source.fingerprint()}"

    @functools.cached_property
    def _population(self) -> Iterable[Any]:
        """The batches for `population_state`; made once, so that damage is reported once."""
        if not isinstance(self.train, StoredImages):
            return self._test_batches(self.train)
        dtype = tf.as_dtype(self.model.compute_dtype)
        size = min(STORED_TEST_BATCH, len(self.train))
        first = self.channels_first
        return StoredTestBatches(self.train, size, dtype, first, limit=POPULATION, mixed=True)

    def _test_batches(self, data: ImageData | StoredImages) -> Iterable[Any]:
        if id(data) not in self._kept:
            dtype = tf.as_dtype(self.model.compute_dtype)
            batches: Iterable[Any]
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
    def _kept(self) -> dict[int, tuple[ImageData | StoredImages, Iterable[Any]]]:
        """Batches to test on, made once: tensors for a small data set, else a pipeline."""
        return {}

    @functools.cached_property
    def _statistics(self) -> PopulationStatistics:
        """Computes the statistics of the model's normalisations."""
        return PopulationStatistics(self.model)

    @functools.cached_property
    def _infer(self) -> Callable[..., Any]:
        """A compiled call of the model in inference mode."""
        return tf.function(
            lambda values, state, inputs: keras_models.outputs_of(
                self.model, values, state, inputs, custom_op.losses.get("softmax_cross_entropy")
            ),
            autograph=False,
            reduce_retracing=True,
        )


def _spread(data: ImageData, sample: int | None) -> ImageData:
    """Returns a sample of the images, evenly spread; all of them for None."""
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
