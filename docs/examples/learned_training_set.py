"""Learn a training set: ten images from which a classifier learns all digits.

Softmax regression takes 20 steps on ten images, one for each digit; their pixels follow the
validation loss downhill, through the training (Maclaurin, Duvenaud and Adams 2015, section 3.3).
`hypergrad.reversible` runs the training backwards instead of keeping its weights.
"""

from __future__ import annotations

import argparse

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from mlhf import hypergrad

STEPS, OUTER = 20, 40


def run(outer: int = OUTER) -> tuple[np.ndarray, list[float]]:
    """Returns the ten images, and the test accuracy at each step of the pixels."""
    images, labels = load_digits(return_X_y=True)
    images = tf.constant((images - images.mean()) / images.std(), tf.float32)
    labels = tf.constant(labels, tf.int32)
    valid, test = slice(1000), slice(1000, None)

    def loss(w, images, labels):
        logits = images @ w["kernel"] + w["bias"]
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

    def train_loss(w, hyper, step):
        penalty = 0.01 * tf.reduce_sum(w["kernel"] ** 2)
        return loss(w, hyper["images"], tf.range(10)) + penalty

    problem = hypergrad.Problem(
        train_loss,
        lambda w, hyper: loss(w, images[valid], labels[valid]),
        dynamics=hypergrad.Momentum(0.5, 0.9),
        steps=STEPS,
    )
    weights = {"kernel": tf.zeros([64, 10]), "bias": tf.zeros([10])}
    pixels = tf.constant(0.01 * np.random.default_rng(0).normal(size=(10, 64)), tf.float32)
    accuracies = []
    for _ in range(outer + 1):
        result = hypergrad.reversible(problem, weights, {"images": pixels})
        logits = images[test] @ result.weights["kernel"] + result.weights["bias"]
        hits = tf.argmax(logits, -1, output_type=tf.int32) == labels[test]
        accuracies.append(float(np.mean(hits)))
        last, pixels = pixels, pixels - result.hypergradient["images"]
    return last.numpy().reshape(10, 8, 8), accuracies


def main() -> None:
    """Learns the images, checks what they teach, and draws them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="learned_training_set.png", help="the picture's path")
    output = parser.parse_args().output
    images, accuracies = run()
    print(
        f"test accuracy: {accuracies[0]:.3f} from ten images of noise, {accuracies[-1]:.3f} learned"
    )
    assert accuracies[-1] > 0.85

    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 5, figsize=(7, 3.2))
    size = np.abs(images).max()
    for digit, (axis, image) in enumerate(zip(axes.flat, images, strict=True)):
        axis.imshow(image, "gray", vmin=-size, vmax=size)
        axis.set_title(str(digit))
        axis.axis("off")
    figure.savefig(output, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
