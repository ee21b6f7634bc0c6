"""See the spectrum of a network's Hessian before and after training.

The density of all eigenvalues by Lanczos quadrature, from products alone. The network is small, so
that the matrix fits: the largest eigenvalues and the trace are held against it.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import mlhf
from mlhf import custom_op


def data() -> tuple[tf.Tensor, tf.Tensor]:
    """Returns 400 digits in float64."""
    images, labels = load_digits(return_X_y=True)
    return tf.constant(images[:400] / 16), tf.constant(labels[:400], tf.int32)


def network(w: dict[str, tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """Returns the logits of 64, 8 and 10 units."""
    return tf.tanh(images @ w["hidden"]) @ w["logits"]


def run() -> dict[str, dict[str, Any]]:
    """Returns the density, the largest eigenvalues and the matrix, before and after training."""
    images, labels = data()
    random = np.random.default_rng(0)
    w = {
        "hidden": tf.constant(random.normal(size=(64, 8)) / 8),
        "logits": tf.constant(random.normal(size=(8, 10)) / 3),
    }
    objective = mlhf.Objective(network, "softmax_cross_entropy", images, labels)
    trained = mlhf.minimize(objective, w, "martens", steps=20, progress=False).parameters

    found = {}
    for when, weights in (("at first", w), ("trained", trained)):
        H = custom_op.hessian(
            lambda w: network(w, images), weights, "softmax_cross_entropy", labels
        )
        density = custom_op.spectral_density(H, probes=4, steps=40)
        largest = custom_op.eigenpairs(H, 3).values
        found[when] = {"density": density, "largest": largest, "matrix": H.to_dense().numpy()}
        print(f"{when}: the largest eigenvalues are {np.round(largest, 4)}")
    return found


def main() -> None:
    """Computes both spectra, holds them against the matrices, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="spectrum.png", help="where the picture is written")
    output = parser.parse_args().output
    found = run()

    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, (when, parts) in zip(axes, found.items(), strict=True):
        exact = np.linalg.eigvalsh(parts["matrix"])
        np.testing.assert_allclose(parts["largest"], exact[:-4:-1], rtol=1e-4)
        mean = parts["density"].mean(lambda eigenvalue: eigenvalue)
        assert abs(mean.value - exact.mean()) < 5 * mean.standard_error

        edges = np.linspace(exact.min(), exact.max(), 60)
        axis.hist(exact, edges, density=True, color="#56B4E9", label="the matrix' eigenvalues")
        grid = np.linspace(exact.min(), exact.max(), 500)
        axis.semilogy(
            grid, parts["density"].density(grid), color="#D55E00", label="Lanczos, 4 probes"
        )
        axis.set(xlabel="eigenvalue", title=when, ylim=(1e-3, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("density")
    axes[0].legend()
    figure.savefig(output, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
