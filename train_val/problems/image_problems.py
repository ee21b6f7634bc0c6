"""The problems of the experiments: a network on a data set, as a task."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import mlhf
from mlhf.checks.arguments import check_number
from train_val.data import IMAGENET, Batches, StoredBatches, StoredImages, load
from train_val.networks import network_table
from train_val.networks.network_output import check_logits
from train_val.problems.problem import Problem

# Names are the same in upper and lower case, since the original's scripts use both.
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    name: network_table.load(network_table.find(name).paper) for name in network_table.TRAINED
}


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
    """Returns the problem of a network with a name.

    Args:
      name: The name of the network: `"convnet"`, `"mlp"` or `"resnet"` (in any case).
      data: `"cifar10"`, `"digits"`, `"imagenet"` or `"mnist"`.
      data_dir: The folder of the files, as for `train_val.data.load`.
      part: The training images: `"meta_train"` or `"train"`.
      split: The split, as for `train_val.data.load`.
      batch_size: The batch size in training.
      seed: The seed of the batches.
      weight_decay: The factor c in c/2 · Σ‖w‖², the same for every optimizer. On ImageNet the
        variables of normalisation do not decay, as in the original.
      data_format: `"channels_last"`, `"channels_first"` (on a GPU only) or `"auto"`.
      dtype: The dtype of the network.
      resnet_size: The depth of a ResNet; None for 32, or 18 on ImageNet. Other networks ignore it.
      num_classes: The number of classes on ImageNet; the other data sets ignore it.
      image_size: The side of an image on ImageNet; the other data sets ignore it.

    Returns:
      The problem.

    Raises:
      ValueError: If a name is not known or an argument makes no sense.
      DataError: If the data can't be read.
    """
    if name.lower() not in NETWORKS:
        raise ValueError(f"Expected problem to be one of {sorted(NETWORKS)}, got {name!r}.")
    name = name.lower()
    build, photographs = NETWORKS[name], network_table.find(name).photographs
    if data == IMAGENET and photographs is not None:
        build = network_table.load(photographs)
    parameters = inspect.signature(build).parameters
    settings: dict[str, Any] = {"dtype": dtype}
    if "data_format" in parameters:
        settings["data_format"] = (
            "channels_first" if _channels_first(data_format) else "channels_last"
        )
    sized = "resnet_size" in parameters and resnet_size is not None
    if sized:
        settings["resnet_size"] = resnet_size
    return of_network(
        functools.partial(build, **settings),
        name,
        data,
        title=f"{name} {resnet_size}" if sized else name,
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
    """Returns the problem of any network, given a function that builds it.

    Args:
      build: A function (shape of an image, number of classes, seed=) that returns a built Keras
        model with logits as its output; its initial weights depend on the seed alone.
      name: The name of the problem.
      data: The data set, as for `make`.
      title: The beginning of the task's name; None for `name`.
      data_dir: The folder of the files, as for `make`.
      part: The training images, as for `make`.
      split: The split, as for `make`.
      batch_size: The batch size in training.
      seed: The seed of the batches.
      weight_decay: The factor of the penalty, as for `make`.
      data_format: The format of the images that the network gets, as for `make`.
      dtype: The dtype of the images, which has to be the network's too.
      num_classes: The number of classes, as for `make`.
      image_size: The side of an image, as for `make`.

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
        # Layers without an explicit name get another one in each new network.
        parameters = mlhf.get_parameters(other := build(shape, train.num_classes, seed=seed))
        pairs = zip(model.trainable_variables, other.trainable_variables, strict=True)
        return {variable.path: parameters[its.path] for variable, its in pairs}

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
