"""Compares images per second from disk with a plain pipeline and a ResNet-18's consumption.

    python benchmarks/input_pipeline.py --data_dir=DIR --image_size=64

DIR is ImageNet as folders (train/<wnid>/*.JPEG) or as TFRecords; the plain pipeline reads folders.
Prints a line of JSON: medians over interleaved repetitions, the ratios, and the machine's load.
--output also writes it to a file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train_val  # noqa: E402, F401  (before TensorFlow, which it keeps quiet)

import keras  # noqa: E402  # isort: skip
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import mlhf  # noqa: E402
from train_val.data import StoredBatches  # noqa: E402
from train_val.data.image_folders import FolderImages  # noqa: E402
from train_val.data.imagenet import load_imagenet  # noqa: E402
from train_val.data.photographs import MEAN, STD  # noqa: E402
from train_val.networks.resnet import imagenet_resnet  # noqa: E402


def plain(folder: Path, size: int, batch_size: int) -> tf.data.Dataset:
    """Returns the images by a tutorial's pipeline: decode, crop, resize, flip, standardize."""
    images = FolderImages(folder / "train")

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([1, 0, 4]),
            min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.05, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.image.resize(tf.slice(image, begin, extent), [size, size])
        image = tf.image.random_flip_left_right(tf.ensure_shape(image, [size, size, 3]))
        return (image - MEAN) / STD, label

    dataset = tf.data.Dataset.from_tensor_slices((images.paths, images.labels))
    dataset = dataset.shuffle(len(images)).repeat().map(load, tf.data.AUTOTUNE)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def rate(batches: Iterator, seconds: float) -> float:
    """Images a second of a pipeline that is running already."""
    images, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        images += len(next(batches)[1])
    return images / (time.perf_counter() - started)


def consumed(size: int, classes: int, batch_size: int, steps: int) -> float:
    """Images a second that the cheapest step, SGD's, of a ResNet-18 takes."""
    model = imagenet_resnet((size, size, 3), classes)
    optimizer = mlhf.FirstOrder(keras.optimizers.SGD(0.01))
    parameters, model_state = mlhf.get_parameters(model), mlhf.get_model_state(model)
    state = optimizer.init(parameters)
    random = np.random.default_rng(0)
    images = random.normal(size=(batch_size, size, size, 3)).astype("f")
    labels = random.integers(0, classes, batch_size)
    times = []
    for _ in range(steps + 1):  # the first compiles
        started = time.perf_counter()
        objective = mlhf.Objective(model, "softmax_cross_entropy", images, labels, model_state)
        parameters, state, model_state, metrics = optimizer.step(objective, parameters, state)
        float(metrics["loss"])
        times.append(time.perf_counter() - started)
    return batch_size / statistics.median(times[1:])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_dir", required=True, type=Path)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="the seconds of each measurement"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=5, help="the steps of the ResNet; 0 leaves it out"
    )
    parser.add_argument("--output", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    size, batch_size = arguments.image_size, arguments.batch_size

    data = load_imagenet(arguments.data_dir, "train", image_size=size)
    pipelines = {"ours": StoredBatches(data, batch_size, 0).dataset()}
    if isinstance(data.source, FolderImages):
        pipelines["plain"] = iter(plain(arguments.data_dir, size, batch_size))
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(arguments.repetitions):
        for name, batches in pipelines.items():
            rate(batches, 0.5)  # empties queues that filled while it rested
            rates[name].append(rate(batches, arguments.seconds))
    result = {
        "images": len(data),
        "image_size": size,
        "batch_size": batch_size,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{f"{name}_images_per_second": round(statistics.median(r)) for name, r in rates.items()},
    }
    ours = statistics.median(rates["ours"])
    if "plain" in rates:
        ratios = [a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)]
        result["ours_by_plain"] = round(statistics.median(ratios), 2)
    if arguments.steps:
        needed = consumed(size, data.num_classes, batch_size, arguments.steps)
        result["resnet18_images_per_second"] = round(needed, 1)
        result["ours_by_resnet18"] = round(ours / needed, 1)
    print(json.dumps(result))
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
