"""Use the meta-trained optimizers that ship with the package, with nothing tuned.

`MetaHessianFree.from_pretrained(steps=40)` is the MetaMuon of a training of 40 steps. It ends below
the others: Adam at the best of five rates, and `from_pretrained("convnet")`, which was trained on
small convolutional networks and photos of CIFAR-10 and is level with Hessian-free at its defaults.
The network is one that neither has seen; the images are scikit-learn's digits.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits

import mlhf
from mlhf.train_val.comparison import styles

STEPS, BATCH = 40, 128


def network() -> keras.Sequential:
    """Returns a convolution of 8 channels, a pooling and a dense layer."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input([8, 8, 1]),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def run(steps: int = STEPS) -> dict[str, list[float]]:
    """Returns the loss on all images after every fifth step, by optimizer."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    labels = labels.astype("int32")

    curves = {}
    for name, optimizer in (
        ("MetaMuon", mlhf.MetaHessianFree.from_pretrained(steps=steps)),
        ("MLHF", mlhf.MetaHessianFree.from_pretrained("convnet")),
        ("Hessian-free", mlhf.HessianFree()),
        ("Adam: 0.001", mlhf.FirstOrder(lambda: keras.optimizers.Adam(0.001))),
        ("Adam: 0.05, tuned", mlhf.FirstOrder(lambda: keras.optimizers.Adam(0.05))),
    ):
        model = network()
        whole = mlhf.Objective(model, "softmax_cross_entropy", images, labels)
        parameters = mlhf.get_parameters(model)
        state, curves[name] = optimizer.init(model), []
        for step in range(steps + 1):
            if step % 5 == 0:
                curves[name].append(float(whole.data_loss(parameters)))
            rows = np.random.default_rng(step).choice(len(images), BATCH, replace=False)
            batch = mlhf.Objective(model, "softmax_cross_entropy", images[rows], labels[rows])
            parameters, state, _, _ = optimizer.step(batch, parameters, state)
        print(
            f"{name}: loss {curves[name][0]:.2f} at first, "
            f"{curves[name][-1]:.3f} after {steps} steps"
        )
    return curves


def main() -> None:
    """Trains, checks that what was learned elsewhere serves here, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="pretrained.png", help="where the picture is written")
    output = parser.parse_args().output
    curves = run()
    assert curves["MLHF"][-1] < min(0.2, 0.5 * curves["Adam: 0.001"][-1])
    assert curves["MetaMuon"][-1] < 0.7 * curves["Adam: 0.05, tuned"][-1]

    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for (name, losses), style in zip(curves.items(), styles.styles(list(curves)), strict=True):
        steps = 5 * np.arange(len(losses))
        axes.semilogy(
            steps,
            losses,
            color=style.color,
            marker=style.marker,
            dashes=style.dashes or (None, None),
            label=name,
        )
    axes.set(
        xlabel="step", ylabel="loss on all images", title="Digits, a small convolutional network"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(output, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
