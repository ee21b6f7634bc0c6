"""What `fit` costs beside a loop of one's own, with the same optimizer and batches.

Both take the same steps on the same batches; each round runs the loop and then `fit`, so that other
work on the machine meets both, and the figure is the median of the rounds' ratios. A third way,
Keras' own `fit` with a metric and SGD, says what Keras itself costs.

    python -m benchmarks.keras_fit --model=small --rounds=15
    python -m benchmarks.keras_fit --model=convnet --rounds=5 --steps=6
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mlhf

L = keras.layers


def small() -> tuple[Any, tuple[int, ...], int]:
    """Returns a network of 2,410 parameters, the shape of its inputs, and a batch size."""
    hidden = L.Dense(32, activation="tanh")
    return keras.Sequential([keras.Input([64]), hidden, L.Dense(10)]), (64,), 128


def convnet() -> tuple[Any, tuple[int, ...], int]:
    """Returns a convolutional network of 0.3 million parameters on small images."""
    layers: list[Any] = [keras.Input([32, 32, 3])]
    for channels in (32, 64):
        layers += [L.Conv2D(channels, 5, padding="same", activation="relu"), L.MaxPooling2D()]
    layers += [L.Flatten(), L.Dense(64, activation="relu"), L.Dense(10)]
    return keras.Sequential(layers), (32, 32, 3), 64


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="small", choices=["small", "convnet"])
    parser.add_argument("--optimizer", default="hessian_free", help="a name of mlhf.keras")
    parser.add_argument("--steps", type=int, default=100, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--processor_seconds", action="store_true", help="on a busy machine")
    arguments = parser.parse_args()
    now = time.process_time if arguments.processor_seconds else time.perf_counter
    build = {"small": small, "convnet": convnet}[arguments.model]
    keras.utils.set_random_seed(0)
    model, shape, size = build()
    random = np.random.default_rng(0)
    x = random.normal(size=(arguments.steps * size, *shape)).astype("float32")
    y = random.integers(0, 10, len(x)).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(size, drop_remainder=True).cache()

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    from mlhf.keras.optimizer_table import find

    optimizer = find(arguments.optimizer, model)
    state, start = optimizer.init(model), mlhf.get_parameters(model)

    def loop() -> float:
        parameters, own = start, state
        began = now()
        for inputs, targets in data:
            objective = mlhf.Objective(model, "softmax_cross_entropy", inputs, targets)
            parameters, own, _, metrics = optimizer.step(objective, parameters, own)
        float(metrics["loss"])
        return now() - began

    fitted, plain = build()[0], build()[0]
    mlhf.keras.compile(fitted, optimizer, loss)
    plain.compile(keras.optimizers.SGD(0.01), loss)

    def fit(which: Any) -> float:
        began = now()
        which.fit(data, verbose=0)
        return now() - began

    seconds: list[tuple[float, float, float]] = []
    for number in range(arguments.rounds + 1):
        taken = loop(), fit(fitted), fit(plain)
        if number:  # the first compiles
            seconds.append(taken)
    own, with_fit, of_keras = np.median(np.array(seconds), 0) / arguments.steps * 1e3
    ratios = [b / a for a, b, _ in seconds]
    print(f"{arguments.model}, {arguments.optimizer}, {model.count_params():,} parameters, {size}")
    print(
        f"own loop {own:.2f} ms a step, fit {with_fit:.2f} ms, Keras' fit with SGD {of_keras:.2f}"
    )
    print(f"fit / own loop: {np.median(ratios):.3f} (median of {len(ratios)} rounds)")


if __name__ == "__main__":
    main()
