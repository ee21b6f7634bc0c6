"""Meta-train an optimizer of your own, in a minute.

A task is a network, a loss, initial weights by seed, and batches. `mlhf.evolve` changes the output
layers of the LSTMs, and the learning rate, so that trainings of 40 steps have lower losses; then
the optimizer trains from a seed that meta-training never saw, beside what it was before.
"""

from __future__ import annotations

import argparse
import itertools

import keras
import numpy as np
from sklearn.datasets import load_digits

import mlhf

UPDATES, STEPS = 40, 40


def build(seed: int) -> keras.Sequential:
    """Returns a network of 64, 16 and 10 units."""
    first, last = (keras.initializers.GlorotUniform(10 * seed + k) for k in range(2))
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input([64]),
            layers.Dense(16, "tanh", kernel_initializer=first, name="hidden"),
            layers.Dense(10, kernel_initializer=last, name="logits"),
        ],
        name="network",
    )


def run(updates: int = UPDATES) -> tuple[dict[str, list[float]], list[float]]:
    """Returns the losses of a training before and after, and those of meta-training."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype("float32"), labels.astype("int32")
    # Meta-training and the training below use different images.
    parts = {"meta": np.arange(900), "train": np.arange(900, len(images))}

    def batches(part, start=0):
        for k in itertools.count(start):
            rows = np.random.default_rng(k).choice(parts[part], 64, replace=False)
            yield images[rows], labels[rows]

    task = mlhf.Task(
        build(0),
        "softmax_cross_entropy",
        initialize=lambda seed: mlhf.get_parameters(build(seed)),
        batches=lambda start: batches("meta", start),
    )
    optimizer = mlhf.MetaHessianFree(
        0.3, cg_iterations=4, input_scale="rms", initial_damping=1.0, longest_step=0.25
    )
    optimizer.init(build(0))  # draws the LSTMs' weights

    def train():
        model = build(1000)
        parameters, state, losses = mlhf.get_parameters(model), optimizer.init(model), []
        for inputs, targets in itertools.islice(batches("train"), STEPS):
            objective = mlhf.Objective(model, "softmax_cross_entropy", inputs, targets)
            parameters, state, _, metrics = optimizer.step(objective, parameters, state)
            losses.append(float(metrics["loss"]))
        return losses

    curves = {"before": train()}
    result = mlhf.evolve(
        task,
        optimizer,
        updates,
        roll_back=10,
        horizon=STEPS,
        pairs=2,
        meta_lr=0.1,
        layers="output",
        progress=False,
    )
    curves["after"] = train()
    return curves, [float(record["loss"]) for record in result.history]


def main() -> None:
    """Meta-trains, checks that it helped on a new seed, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="meta_train.png", help="where the picture is written")
    output = parser.parse_args().output
    curves, _ = run()
    last = {when: np.mean(losses[-10:]) for when, losses in curves.items()}
    print(
        f"loss of steps 31 to 40: {last['before']:.3f} before meta-training, "
        f"{last['after']:.3f} after"
    )
    assert last["after"] < 0.6 * last["before"]

    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for when, color, marker in (("before", "#E69F00", "o"), ("after", "#D55E00", "s")):
        label = f"MLHF {when} meta-training"
        axes.semilogy(curves[when], color=color, marker=marker, markevery=5, label=label)
    axes.set(xlabel="step", ylabel="loss of the batch", title="Digits, a seed that it never saw")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(output, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
