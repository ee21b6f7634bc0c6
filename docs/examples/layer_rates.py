"""Learn a learning rate for each layer and step by hypergradients.

The hypergradient is the gradient of the validation loss after training, through all of its steps;
here by a rate for each of two layers in each of 30 steps. It is held against a difference of two
trainings in float64, and then followed downhill.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from mlhf import hypergrad

STEPS, OUTER = 30, 40


def run(outer: int = OUTER) -> tuple[np.ndarray, list[float], tuple[float, float]]:
    """Returns the rates [step, layer], the validation losses, and a derivative in two ways."""
    images, labels = load_digits(return_X_y=True)
    images, labels = tf.constant(images / 16), tf.constant(labels, tf.int32)
    random = np.random.default_rng(0)
    weights = {
        "hidden": tf.constant(random.normal(size=(64, 16)) / 8),
        "logits": tf.constant(random.normal(size=(16, 10)) / 4),
    }

    def loss(w, rows):
        logits = tf.tanh(images[rows] @ w["hidden"]) @ w["logits"]
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels[rows], logits))

    problem = hypergrad.Problem(
        lambda w, hyper, step: loss(w, slice(300)),
        lambda w, hyper: loss(w, slice(300, 800)),
        dynamics=hypergrad.Momentum(momentum=0.9),
        steps=STEPS,
    )

    def rates(numbers):
        return {"learning_rate": {name: numbers[name] for name in weights}}

    start = {name: tf.fill([STEPS], tf.constant(0.1, tf.float64)) for name in weights}

    # One derivative by a difference: the rate of the first layer in step 5.
    exact = hypergrad.reverse(problem, weights, rates(start)).hypergradient["learning_rate"]
    ends = []
    for sign in (1, -1):
        moved = start["hidden"] + 1e-5 * sign * tf.one_hot(5, STEPS, dtype=tf.float64)
        found = hypergrad.reverse(problem, weights, rates({**start, "hidden": moved}))
        ends.append(float(found.valid_loss))
    both = float(exact["hidden"][5]), (ends[0] - ends[1]) / 2e-5

    optimizer = hypergrad.HyperOptimizer(
        problem,
        weights,
        rates(start),
        method="reverse",
        outer_optimizer=keras.optimizers.Adam(0.05),
        projections={"learning_rate": hypergrad.projections.box(0.0, 2.0)},
    )
    learned = optimizer.run(outer)["learning_rate"]
    losses = [float(record["valid_loss"]) for record in optimizer.records]
    optimizer.close()
    return np.stack([learned[name] for name in weights], 1), losses, both


def main() -> None:
    """Learns the rates, checks the derivative and the outcome, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="layer_rates.png", help="where the picture is written")
    output = parser.parse_args().output
    rates, losses, (derivative, difference) = run()
    print(f"d loss / d rate: {derivative:.8f} by reverse mode, {difference:.8f} by a difference")
    print(
        f"validation loss: {losses[0]:.3f} with 0.1 everywhere, {losses[-1]:.3f} with learned rates"
    )
    np.testing.assert_allclose(derivative, difference, rtol=1e-5)
    assert losses[-1] < 0.7 * losses[0]

    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for layer, color, marker in ((0, "#0072B2", "s"), (1, "#D55E00", "o")):
        name = ("hidden layer", "output layer")[layer]
        left.plot(rates[:, layer], color=color, marker=marker, markevery=5, label=name)
    left.set(xlabel="step of training", ylabel="learned rate")
    left.legend()
    right.plot(losses, color="#000000")
    right.set(xlabel="step of the outer optimizer", ylabel="validation loss after training")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(output, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
