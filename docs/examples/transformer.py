"""Train a small transformer on four sonnets, with Muon, Adam and Hessian-free.

One block of attention and one dense block on windows of 32 characters, in Keras' own layers. All
three start from the same weights and see the same batches; each has a rate that suits it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np

import mlhf
from mlhf.train_val.comparison import styles

WINDOW, WIDTH, BATCH, STEPS = 32, 32, 32, 60
SONNETS = Path(__file__).with_name("sonnets.txt")


@keras.saving.register_keras_serializable(package="example")
class Places(keras.layers.Layer):
    """Adds a learned vector for each place in the window."""

    def build(self, shape):
        """Makes the vectors."""
        self.table = self.add_weight(shape=shape[1:], initializer="zeros", name="places")

    def call(self, x):
        """Adds them."""
        return x + self.table


def network(letters: int) -> keras.Model:
    """Returns the transformer: logits of the next letter at each place."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    window = keras.Input([WINDOW], dtype="int32")
    x = Places()(layers.Embedding(letters, WIDTH)(window))
    normal = layers.LayerNormalization()(x)
    attention = layers.MultiHeadAttention(num_heads=2, key_dim=WIDTH // 2)
    x = x + attention(normal, normal, use_causal_mask=True)
    hidden = layers.Dense(4 * WIDTH, "gelu")(layers.LayerNormalization()(x))
    x = x + layers.Dense(WIDTH)(hidden)
    return keras.Model(window, layers.Dense(letters)(layers.LayerNormalization()(x)))


def run(steps: int = STEPS) -> dict[str, list[float]]:
    """Returns the loss of every batch, by optimizer."""
    text = SONNETS.read_text(encoding="utf-8")
    letters = sorted(set(text))
    numbers = np.array([letters.index(letter) for letter in text], "int32")

    def batch(step):
        starts = np.random.default_rng(step).integers(0, len(numbers) - WINDOW, BATCH)
        rows = starts[:, None] + np.arange(WINDOW + 1)
        return numbers[rows[:, :-1]], numbers[rows[:, 1:]]

    curves = {}
    for name, optimizer in (
        ("Muon", mlhf.Muon(mlhf.Schedule(0.03, "linear", steps))),
        ("Adam", mlhf.FirstOrder(lambda: keras.optimizers.Adam(0.01))),
        ("Hessian-free", mlhf.HessianFree(0.5, damping=0.1)),
    ):
        model = network(len(letters))
        parameters, model_state = mlhf.get_parameters(model), mlhf.get_model_state(model)
        state, curves[name] = optimizer.init(model), []
        for step in range(steps):
            objective = mlhf.Objective(model, "softmax_cross_entropy", *batch(step), model_state)
            parameters, state, model_state, metrics = optimizer.step(objective, parameters, state)
            curves[name].append(float(metrics["loss"]))
        print(
            f"{name}: loss {curves[name][0]:.2f} at first, "
            f"{np.mean(curves[name][-10:]):.2f} at last"
        )
    return curves


def main() -> None:
    """Trains, checks that all have learned more than the letters' frequencies, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="transformer.png", help="where the picture is written")
    output = parser.parse_args().output
    curves = run()
    # The entropy of the letters by themselves is 2.98 nats.
    for name, losses in curves.items():
        assert np.mean(losses[-10:]) < 2.6, name

    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for (name, losses), style in zip(curves.items(), styles.styles(list(curves)), strict=True):
        smooth = np.convolve(losses, np.ones(5) / 5, "valid")
        axes.plot(smooth, color=style.color, marker=style.marker, markevery=8, label=name)
    axes.set(xlabel="step", ylabel="loss, mean of 5 batches", title="A transformer on four sonnets")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(output, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
