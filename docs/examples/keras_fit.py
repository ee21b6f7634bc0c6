"""Train a Keras model by `fit` with Hessian-free steps.

`compile`, metrics, callbacks and `fit` are Keras' own; only `train_step` is overridden: it takes a
step of `mlhf.HessianFree` on the batch. The same network with Adam, at a rate that suits it, is
beside it: after 10 epochs of 11 batches its loss is nearly three times as high.
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

import mlhf
from mlhf.train_val.comparison import styles

EPOCHS, BATCH = 10, 128


class Curved(keras.Sequential):
    """A model whose `fit` takes Hessian-free steps."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Takes one step on a batch, and reports what `compile` asked for."""
        if not hasattr(self, "steps"):
            self.steps = mlhf.HessianFree(0.5, damping=0.1)
            self.curvature = self.steps.init(self)
        images, labels = data
        parameters, state = mlhf.get_parameters(self), mlhf.get_model_state(self)
        objective = mlhf.Objective(
            self,
            "softmax_cross_entropy",
            images,
            labels,
            state,
            ignore_overrides=True,  # this train_step is one
        )
        parameters, self.curvature, state, metrics = self.steps.step(
            objective, parameters, self.curvature
        )
        mlhf.set_parameters(self, parameters)
        mlhf.set_model_state(self, state)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(metrics["loss"])
            else:
                metric.update_state(labels, self(images))
        return self.get_metrics_result()


def network(kind: type[keras.Sequential]) -> keras.Sequential:
    """Returns a network of 64, 32 and 10 units, the same for every kind."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    return kind([keras.Input([64]), layers.Dense(32, "tanh"), layers.Dense(10)])


def run() -> dict[str, list[float]]:
    """Returns the training loss after every epoch, by optimizer."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images[:1408] / 16).astype("float32"), labels[:1408].astype("int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    curves = {}
    for name, kind in (("Hessian-free", Curved), ("Adam", keras.Sequential)):
        model = network(kind)
        # The state of a step is handed on in Python, so `train_step` is not traced; steps are.
        model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss, run_eagerly=kind is Curved)
        history = model.fit(images, labels, BATCH, epochs=EPOCHS, verbose=0)
        curves[name] = history.history["loss"]
        print(f"{name}: loss {curves[name][-1]:.2g} in epoch {EPOCHS}")
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
