"""The problems of the experiments: a network on a data set, as a task."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import custom_op
import mlhf
from mlhf.checks.arguments import check_number
from mlhf.models import keras_models
from mlhf.models.moving_statistics import PopulationStatistics
from train_val.data import (
    IMAGENET,
    Batches,
    ImageData,
    StoredBatches,
    StoredImages,
    StoredTestBatches,
    load,
    test_batches,
)
from train_val.networks import convnets, resnet
from train_val.networks.network_output import check_logits

# Upper and lower case are one name, as the original's scripts use both.
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "convnet": convnets.convnet,
    "mlp": convnets.mlp,
    "resnet": resnet.cifar_resnet,
}
# Those that a data set of photographs has in their place.
PHOTOGRAPH_NETWORKS: dict[str, Callable[..., keras.Model]] = {"resnet": resnet.imagenet_resnet}


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

        def enough():
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

    def _values(self, parameters):
        return [parameters[variable.path] for variable in self.model.trainable_variables]

    def _mean(self, parameters, model_state, data, score) -> float:
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


def make(
    name: str,
    data: str = "cifar10",
    *,
    data_dir: str | None = None,
    part: str = "train",
    split: str = "original",
    batch_size: int = 128,
    seed: int = 0,
    weight_decay: float = 0.0,
    data_format: str = "auto",
    dtype: str = "float32",
    resnet_size: int | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
) -> Problem:
    """Returns a problem.

    Args:
      name: Of the network: `"convnet"`, `"mlp"` or `"resnet"` (any case).
      data: `"cifar10"`, `"digits"`, `"imagenet"` or `"mnist"`.
      data_dir: As for `train_val.data.load`.
      part: The training images: `"meta_train"` or `"train"`.
      split: As for `train_val.data.load`.
      batch_size: Of training.
      seed: Of the batches.
      weight_decay: c of c/2 · Σ‖w‖², the same for every optimizer. On ImageNet the variables of
        normalisation do not decay, as in the original.
      data_format: `"channels_last"`, `"channels_first"` (a GPU only) or `"auto"`.
      dtype: Of the network.
      resnet_size: The depth of a ResNet; None for 32 (of ImageNet's 18). Other networks ignore it.
      num_classes: Of ImageNet; the other data sets ignore it.
      image_size: Of ImageNet; the other data sets ignore it.

    Returns:
      The problem.

    Raises:
      ValueError: If a name is not known or an argument makes no sense.
      DataError: If the data can't be read.
    """
    if name.lower() not in NETWORKS:
        raise ValueError(f"Expected problem to be one of {sorted(NETWORKS)}, got {name!r}.")
    name = name.lower()
    build = NETWORKS[name]
    if data == IMAGENET:
        build = PHOTOGRAPH_NETWORKS.get(name, build)
    settings: dict[str, Any] = {"dtype": dtype}
    if name != "mlp":
        settings["data_format"] = (
            "channels_first" if _channels_first(data_format) else "channels_last"
        )
    if name == "resnet" and resnet_size is not None:
        settings["resnet_size"] = resnet_size
    return of_network(
        functools.partial(build, **settings),
        name,
        data,
        title=name if resnet_size is None or name != "resnet" else f"{name} {resnet_size}",
        data_dir=data_dir,
        part=part,
        split=split,
        batch_size=batch_size,
        seed=seed,
        weight_decay=weight_decay,
        data_format=data_format,
        dtype=dtype,
        num_classes=num_classes,
        image_size=image_size,
    )


def of_network(
    build: Callable[..., keras.Model],
    name: str,
    data: str,
    *,
    title: str | None = None,
    data_dir: str | None = None,
    part: str = "train",
    split: str = "original",
    batch_size: int = 128,
    seed: int = 0,
    weight_decay: float = 0.0,
    data_format: str = "auto",
    dtype: str = "float32",
    num_classes: int | None = None,
    image_size: int | None = None,
) -> Problem:
    """Returns the problem of a network of one's own.

    Args:
      build: A function (shape of an image, number of classes, seed=) of a built Keras model with
        logits as its output; its initial weights depend on the seed alone.
      name: Of the problem.
      data: As for `make`.
      title: What the task's name begins with; None for `name`.
      data_dir: As for `make`.
      part: As for `make`.
      split: As for `make`.
      batch_size: As for `make`.
      seed: Of the batches.
      weight_decay: As for `make`.
      data_format: As for `make`; of the images that the network gets.
      dtype: Of the images; the network's has to be the same.
      num_classes: As for `make`.
      image_size: As for `make`.

    Returns:
      The problem.

    Raises:
      ValueError: If an argument makes no sense.
      DataError: If the data can't be read.
    """
    channels_first = _channels_first(data_format)
    check_number("weight_decay", weight_decay, at_least=0)
    sizes = {"num_classes": num_classes, "image_size": image_size}
    train = load(data, data_dir, part=part, split=split, **sizes)
    test = load(data, data_dir, part="test", split=split, **sizes)
    form = {"dtype": tf.as_dtype(dtype), "channels_first": channels_first}
    batches: Batches | StoredBatches
    if isinstance(train, StoredImages):
        batches = StoredBatches(train, batch_size, seed, **form)
    else:
        batches = Batches(train, batch_size, seed, **form)
    height, width, channels = train.image_shape
    shape = (channels, height, width) if channels_first else (height, width, channels)
    model = build(shape, train.num_classes)
    check_logits(model, name, shape, train.num_classes, dtype)

    def initialize(seed: int) -> dict[str, tf.Tensor]:
        # Layers without a name of their own are called otherwise in each new network.
        found = mlhf.get_parameters(another := build(shape, train.num_classes, seed=seed))
        pairs = zip(model.trainable_variables, another.trainable_variables, strict=True)
        return {own.path: found[other.path] for own, other in pairs}

    excluded: frozenset[str] = frozenset()
    if data == IMAGENET:
        kinds = mlhf.kinds_of_model(model)
        excluded = frozenset(path for path, kind in kinds.items() if kind.startswith("norm_"))

    task = mlhf.Task(
        model,
        "softmax_cross_entropy",
        initialize,
        lambda start: batches.dataset(start),
        regularizer=mlhf.L2(weight_decay, excluded) if weight_decay else None,
        name=f"{title or name} on {data} ({split}), batches of {batch_size}"
        + (f", weight decay {weight_decay}" if weight_decay else ""),
    )
    return Problem(name, model, train, test, task, channels_first, batch_size=batch_size)


def _spread(data: ImageData, sample: int | None) -> ImageData:
    """Returns so many of the images, evenly spread."""
    if sample is None or sample >= len(data):
        return data
    chosen = np.linspace(0, len(data) - 1, sample).round().astype(int)
    return dataclasses.replace(data, images=data.images[chosen], labels=data.labels[chosen])


def _channels_first(data_format: str) -> bool:
    if data_format not in ("auto", "channels_last", "channels_first"):
        raise ValueError(
            "Expected data_format to be auto, channels_last or channels_first, got "
            f"{data_format!r}."
        )
    if data_format == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    if data_format == "channels_first" and not tf.config.list_physical_devices("GPU"):
        raise ValueError(
            "data_format=channels_first needs a GPU: TensorFlow pools and convolves on a CPU in "
            "channels_last only. Give data_format=channels_last."
        )
    return data_format == "channels_first"


def _hits(outputs, labels):
    return tf.reduce_sum(tf.cast(tf.argmax(outputs, -1, tf.int32) == labels, tf.float64))


def _losses(outputs, labels):
    return tf.reduce_sum(
        tf.cast(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs), tf.float64)
    )
