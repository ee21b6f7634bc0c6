"""A network of 784, 32 and 10 units on handwritten digits, trained by Adam.

`python docs/examples/mnist_mlp.py --data_dir=$DATA` prints the accuracy after each epoch. The
gradient is a product with the transposed Jacobian from `custom_op.linearize`. Without the idx files
of MNIST it trains on scikit-learn's 1,797 small digits instead, with 64 inputs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from mlhf import custom_op

BATCH, HIDDEN, CLASSES = 50, 32, 10
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
EPOCHS, ACCURACY = {"MNIST": 5, "digits": 20}, {"MNIST": 0.96, "digits": 0.9}


def load(data_dir: str | None) -> tuple[str, list[np.ndarray]]:
    """Returns the data's name, and images in [0, 1] and labels for training and for testing."""
    if data_dir and any((Path(data_dir) / sub).is_dir() for sub in ("mnist", ".")):
        from mlhf.train_val.data import mnist
        from mlhf.train_val.data.image_data import DataError

        try:
            halves = [mnist.load_mnist(data_dir, part, "") for part in ("meta_train", "train")]
            test = mnist.load_mnist(data_dir, "test", "")
        except DataError as error:
            print(f"{error} Training on scikit-learn's digits instead.")
        else:
            images = np.concatenate([half.images for half in halves] + [test.images])
            labels = np.concatenate([half.labels for half in halves] + [test.labels])
            images = images.reshape(len(images), -1).astype(np.float32) / 255
            return "MNIST", [images[:60000], labels[:60000], images[60000:], labels[60000:]]
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, labels = images.astype(np.float32) / 16, labels.astype(np.int32)
    return "digits", [images[:1400], labels[:1400], images[1400:], labels[1400:]]


def initial(inputs: int, seed: int) -> dict[str, tf.Tensor]:
    """Returns weights with variance 1 / (inputs of the layer), and zero biases."""
    random = np.random.default_rng(seed)
    return {
        "w1": tf.constant(random.normal(size=(inputs, HIDDEN)) / inputs**0.5, tf.float32),
        "b1": tf.zeros([HIDDEN]),
        "w2": tf.constant(random.normal(size=(HIDDEN, CLASSES)) / HIDDEN**0.5, tf.float32),
        "b2": tf.zeros([CLASSES]),
    }


def network(p: dict[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """Returns the logits."""
    return tf.nn.relu(images @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


@tf.function(autograph=False)
def step(p, first, second, count, images, labels, learning_rate):
    """Takes one step of Adam; returns the weights, Adam's state and the loss."""

    def loss(p):
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, network(p, images))
        )

    linear = custom_op.linearize(loss, p)
    gradient = linear.vjp(tf.ones([]))
    first = tf.nest.map_structure(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, gradient)
    second = tf.nest.map_structure(lambda v, g: BETA2 * v + (1 - BETA2) * g**2, second, gradient)
    rate = learning_rate * tf.sqrt(1 - BETA2**count) / (1 - BETA1**count)
    p = tf.nest.map_structure(
        lambda w, m, v: w - rate * m / (tf.sqrt(v) + EPSILON), p, first, second
    )
    return p, first, second, linear.outputs


def run(
    data_dir: str | None, epochs: int | None = None, examples: int | None = None, seed: int = 0
) -> tuple[str, float]:
    """Trains, by default for `EPOCHS`; returns the data's name and the test accuracy."""
    name, (images, labels, test_images, test_labels) = load(data_dir)
    epochs = EPOCHS[name] if epochs is None else epochs
    images, labels = images[:examples], labels[:examples]
    p = initial(images.shape[1], seed)
    first = second = tf.nest.map_structure(tf.zeros_like, p)
    random, count = np.random.default_rng(seed), 0
    for epoch in range(epochs):
        order = random.permutation(len(images))
        for rows in np.split(order[: len(order) // BATCH * BATCH], len(order) // BATCH):
            count += 1
            p, first, second, loss = step(
                p,
                first,
                second,
                tf.constant(float(count)),
                tf.constant(images[rows]),
                tf.constant(labels[rows]),
                tf.constant(0.003),
            )
        found = np.argmax(network(p, tf.constant(test_images)), -1)
        accuracy = float(np.mean(found == test_labels))
        print(f"epoch {epoch + 1}: loss {float(loss):.4f}, test accuracy {accuracy:.4f}")
    return name, accuracy


def main() -> None:
    """Trains, and checks the accuracy after a full training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default=os.environ.get("DATA"))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--examples", type=int, help="train on the first so many only")
    arguments = parser.parse_args()
    name, accuracy = run(arguments.data_dir, arguments.epochs, arguments.examples)
    if arguments.examples is None and arguments.epochs is None:
        assert accuracy > ACCURACY[name], accuracy


if __name__ == "__main__":
    main()
