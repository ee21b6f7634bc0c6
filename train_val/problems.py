"""The problems of the experiments: a network on a data set, as a task."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

import mlhf
from train_val import networks
from train_val.data import Batches, ImageData, load, test_batches

# Upper and lower case are one name, as the original's scripts use both.
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "convnet": networks.convnet,
    "mlp": networks.mlp,
}


# Images that are tested at a time.
TEST_BATCH = 500
# A data set of so many images is kept standardised, in batches, once it was tested on.
KEPT_IMAGES = 5000


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
    """

    name: str
    model: keras.Model
    train: ImageData
    test: ImageData
    task: mlhf.Task
    channels_first: bool = False

    def accuracy(self, parameters: Any, model_state: Any = None) -> float:
        """Returns the share of the test images that are classified right.

        Args:
          parameters: A dictionary from paths to tensors.
          model_state: As `mlhf.get_model_state` gives it; None for the model's own.
        """
        return self._mean(parameters, model_state, self.test, _hits)

    def training_loss(self, parameters: Any, model_state: Any = None) -> float:
        """Returns the mean loss over all training images, not augmented, with the regularizer.

        Args:
          parameters: As for `accuracy`.
          model_state: As for `accuracy`.
        """
        loss = self._mean(parameters, model_state, self.train, _losses)
        if self.task.regularizer is not None:
            loss += float(self.task.regularizer.value(parameters))
        return loss

    def _mean(self, parameters, model_state, data, score) -> float:
        values = [parameters[variable.path] for variable in self.model.trainable_variables]
        state = model_state or mlhf.get_model_state(self.model) or {}
        state = [state[name] for name in sorted(state)]
        total = 0.0
        for inputs, labels in self._test_batches(data):
            total += float(score(self._infer(values, state, inputs), labels))
        return total / len(data)

    def _test_batches(self, data: ImageData) -> Iterable:
        if id(data) not in self._kept:
            batches: Iterable = test_batches(
                data,
                min(TEST_BATCH, len(data)),
                tf.as_dtype(self.model.compute_dtype),
                channels_first=self.channels_first,
            )
            if len(data) <= KEPT_IMAGES:
                batches = list(batches)
            self._kept[id(data)] = data, batches
        return self._kept[id(data)][1]

    @functools.cached_property
    def _kept(self) -> dict[int, tuple[ImageData, Iterable]]:
        """Batches to test on, made once: as tensors of a small data set, else as a pipeline."""
        return {}

    @functools.cached_property
    def _infer(self) -> Callable:
        """A compiled call of the model in inference mode."""
        return tf.function(
            lambda values, state, inputs: self.model.stateless_call(
                values, state, inputs, training=False
            )[0],
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
) -> Problem:
    """Returns a problem.

    Args:
      name: Of the network: `"convnet"` or `"mlp"` (any case).
      data: `"cifar10"`, `"digits"` or `"mnist"`.
      data_dir: As for `train_val.data.load`.
      part: The training images: `"meta_train"` or `"train"`.
      split: As for `train_val.data.load`.
      batch_size: Of training.
      seed: Of the batches.
      weight_decay: c of c/2 · Σ‖w‖², the same for every optimizer.
      data_format: `"channels_last"`, `"channels_first"` (a GPU only) or `"auto"`.
      dtype: Of the network.

    Returns:
      The problem.

    Raises:
      ValueError: If a name is not known or an argument makes no sense.
      DataError: If the data can't be read.
    """
    build = NETWORKS.get(name.lower())
    if build is None:
        raise ValueError(f"Expected problem to be one of {sorted(NETWORKS)}, got {name!r}.")
    channels_first = _channels_first(data_format)
    if weight_decay < 0:
        raise ValueError(f"Expected weight_decay of at least 0, got {weight_decay}.")
    train = load(data, data_dir, part=part, split=split)
    test = load(data, data_dir, part="test", split=split)
    batches = Batches(
        train, batch_size, seed, dtype=tf.as_dtype(dtype), channels_first=channels_first
    )
    height, width, channels = train.image_shape
    shape = (channels, height, width) if channels_first else (height, width, channels)
    settings: dict[str, Any] = {"dtype": dtype}
    if name.lower() == "convnet":
        settings["data_format"] = "channels_first" if channels_first else "channels_last"
    model = build(shape, train.num_classes, **settings)

    def initialize(seed: int) -> dict[str, tf.Tensor]:
        return mlhf.get_parameters(build(shape, train.num_classes, seed=seed, **settings))

    task = mlhf.Task(
        model,
        "softmax_cross_entropy",
        initialize,
        lambda start: batches.dataset(start),
        regularizer=mlhf.L2(weight_decay) if weight_decay else None,
        name=f"{name.lower()} on {data} ({split}), batches of {batch_size}"
        + (f", weight decay {weight_decay}" if weight_decay else ""),
    )
    return Problem(name.lower(), model, train, test, task, channels_first)


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
