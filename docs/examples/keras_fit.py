"""Train a Keras model by `fit` with Hessian-free steps.

`mlhf.keras.compile` takes the place of `model.compile`; metrics, callbacks and `fit` stay Keras'
own. The same network with Adam, at a rate that suits it, is beside it: after 10 epochs of 11
batches its loss is nearly three times as high.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits

import mlhf
import mlhf.keras
from mlhf.train_val.comparison import styles

EPOCHS, BATCH = 10, 128


def network() -> keras.Sequential:
    """Returns a network of 64, 32 and 10 units, always the same."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential([keras.Input([64]), layers.Dense(32, "tanh"), layers.Dense(10)])


def run() -> dict[str, list[float]]:
    """Returns the training loss in every epoch, by optimizer."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images[:1408] / 16).astype("float32"), labels[:1408].astype("int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    curved, plain = network(), network()
    mlhf.keras.compile(curved, mlhf.HessianFree(0.5, damping=0.1), loss=loss, metrics=["accuracy"])
    plain.compile(keras.optimizers.Adam(0.01), loss=loss, metrics=["accuracy"])

    curves = {}
    for name, model in (("Hessian-free", curved), ("Adam", plain)):
        history = model.fit(images, labels, BATCH, epochs=EPOCHS, verbose=0).history
        curves[name] = history["loss"]
        print(
            f"{name}: loss {curves[name][-1]:.2g}, accuracy {history['accuracy'][-1]:.3f} "
            f"in epoch {EPOCHS}"
        )
    return curves


def main() -> None:
    """Trains both, checks that curvature pays, and draws the losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="keras_fit.png", help="where the picture is written")
    output = parser.parse_args().output
    curves = run()
    assert curves["Hessian-free"][-1] < 0.5 * curves["Adam"][-1]

    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for (name, losses), style in zip(curves.items(), styles.styles(list(curves)), strict=True):
        epochs = np.arange(1, EPOCHS + 1)
        axes.semilogy(epochs, losses, color=style.color, marker=style.marker, label=name)
    axes.set(xlabel="epoch of fit", ylabel="training loss", title="Digits: 64, 32 and 10 units")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(output, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
