"""An image classifier in Keras, trained by first-order methods and by curvature.

    python docs/examples/keras_classifier.py --data_dir=DATA --seconds=60

trains one small convolutional network (BatchNormalization, Dropout, augmentation in tf.data,
callbacks) with each optimizer for the same seconds of training, and prints test loss and accuracy
along the way. Only the line that compiles differs. The images are CIFAR-10's, or scikit-learn's
digits without --data_dir. The learning rates of AdamW and Muon are the best of --rates after a run
of half the seconds, which do not count; curvature has its defaults. `"meta_muon"`, which has
nothing to tune, needs the number of steps: those that Muon takes in the seconds, and a tenth less.
With --seeds=3 the table has medians.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mlhf

L = keras.layers
LOSS = "sparse_categorical_crossentropy"


def load(data_dir: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns training images and labels, and those of a test; images are from -1 to 1."""
    if data_dir is None:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = (x.reshape(-1, 8, 8, 1) / 8 - 1).astype("float32")
        return x[:1400], y[:1400], x[1400:], y[1400:]
    folder = Path(data_dir) / "cifar-10-batches-bin"
    found: list[np.ndarray] = []
    for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        records = np.fromfile(folder / name, np.uint8).reshape(-1, 3073)
        pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        found += [(pixels / 127.5 - 1).astype("float32"), records[:, 0].astype("int32")]
    x, y = np.concatenate(found[0:4:2]), np.concatenate(found[1:4:2])
    return x, y, found[4][:2000], found[5][:2000]


def augmented(x: np.ndarray, y: np.ndarray, size: int, flip: bool) -> tf.data.Dataset:
    """Returns shuffled batches of images that are shifted, and flipped where that makes sense.

    All have one size: that of an epoch's end would compile a step in the middle of the seconds.
    """

    def change(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        height, width, channels = x.shape[1:]
        wide = tf.pad(image, [[1, 1], [1, 1], [0, 0]])
        image = tf.image.random_crop(wide, [height, width, channels])
        return tf.image.random_flip_left_right(image) if flip else image, label

    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=1)
    return data.map(change, tf.data.AUTOTUNE).batch(size, drop_remainder=True).prefetch(2)


def build(shape: tuple[int, ...], seed: int) -> Any:
    """Returns the classifier."""
    keras.utils.set_random_seed(seed)
    layers: list[Any] = [keras.Input(shape)]
    for channels in (16, 32):
        layers += [L.Conv2D(channels, 3, padding="same"), L.BatchNormalization(momentum=0.9)]
        layers += [L.ReLU(), L.MaxPooling2D()]
    layers += [L.Flatten(), L.Dropout(0.2), L.Dense(10, activation="softmax")]
    return keras.Sequential(layers)


class Clock(keras.callbacks.Callback):
    """Measures along the way, and ends training when its seconds are over."""

    def __init__(
        self, test: tuple[np.ndarray, np.ndarray], seconds: float, processor: bool
    ) -> None:
        """Takes what to measure on, the seconds of training, and whether those of processors."""
        super().__init__()
        self._now = time.process_time if processor else time.perf_counter
        self._test, self._seconds = test, seconds
        self._taken, self.steps = 0.0, 0
        self.curve: list[tuple[float, float, float]] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._began = self._now()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops the clock; the first two steps of a run compile, and do not count."""
        float(logs["loss"])
        self.steps += 1
        if self.steps > 2:
            self._taken += self._now() - self._began
        over = self._taken > self._seconds
        # Eight measures of a run, whose time does not count.
        if over or self._taken > len(self.curve) * self._seconds / 8:
            predicted = self.model.predict(self._test[0], 500, verbose=0)
            chances = predicted[np.arange(len(predicted)), self._test[1]]
            right = np.mean(np.argmax(predicted, -1) == self._test[1])
            loss = -np.mean(np.log(np.maximum(chances, 1e-7)))
            self.curve.append((self._taken, float(loss), float(right)))
        self.model.stop_training = self.model.stop_training or over


class Runs:
    """Runs on the same data, for the same seconds."""

    def __init__(self, data: Any, size: int, processor: bool) -> None:
        """Takes the data, the batch size, and whether seconds are those of processors."""
        self._data, self._size, self._processor = data, size, processor
        # Steps per second of the last run.
        self.pace = 0.0

    def curve(self, compile: Any, seconds: float, seed: int = 1) -> list[tuple[float, ...]]:
        """Returns seconds, test loss and test accuracy along a run."""
        x, y, *test = self._data
        model = build(x.shape[1:], seed)
        compile(model)
        clock = Clock(test, seconds, self._processor)
        batches = augmented(x, y, self._size, flip=x.shape[-1] == 3)
        ends = [clock, keras.callbacks.TerminateOnNaN()]
        model.fit(batches, epochs=10**6, verbose=0, callbacks=ends)
        self.pace = clock.steps / clock.curve[-1][0]
        return clock.curve


def by_curvature(optimizer: Any, **settings: Any) -> Any:
    """Returns the function that compiles a model with an optimizer of this package."""
    return lambda model: mlhf.keras.compile(model, optimizer, loss=LOSS, **settings)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_dir", help="the folder with cifar-10-batches-bin")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--processor_seconds", action="store_true", help="on a busy machine")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rates", default="0.001,0.003,0.01,0.03")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    seconds, rates = arguments.seconds, [float(rate) for rate in arguments.rates.split(",")]
    run = Runs(load(arguments.data_dir), arguments.batch_size, arguments.processor_seconds)
    tuned = {
        "AdamW": lambda rate: lambda model: model.compile(keras.optimizers.AdamW(rate), loss=LOSS),
        "Muon": lambda rate: by_curvature(mlhf.Muon(rate)),
    }
    runs: dict[str, Any] = {}
    for name, make in tuned.items():
        losses = [run.curve(make(rate), seconds / 2)[-1][1] for rate in rates]
        best = rates[int(np.nanargmin(losses))]
        runs[f"{name}, rate {best:g}"] = make(best)
    steps = int(0.9 * seconds * run.pace)
    runs[f"meta_muon, {steps} steps"] = by_curvature("meta_muon", steps=steps)
    runs["mlhf"], runs["hessian_free"] = by_curvature("mlhf"), by_curvature("hessian_free")
    runs["kfac, rate 0.03"] = by_curvature(mlhf.KFAC(0.03))
    marks = [seconds * part for part in (0.25, 0.5, 1)]
    head = " | ".join(f"loss, accuracy at {mark:g} s" for mark in marks)
    print(f"| optimizer | {head} |\n|{' --- |' * (len(marks) + 1)}", flush=True)
    for name, compile in runs.items():
        curves = [run.curve(compile, seconds, 1 + seed) for seed in range(arguments.seeds)]
        cells = []
        for mark in marks:
            points = [min(one, key=lambda point: abs(point[0] - mark)) for one in curves]
            _, loss, right = np.median(points, 0)
            cells.append(f"{loss:.3f}, {right:.1%}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
