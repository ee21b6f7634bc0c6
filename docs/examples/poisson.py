"""Fit an equation: Poisson's on the unit square, by Levenberg-Marquardt.

A network u(x, y) of 16 tanh units becomes the solution of u_xx + u_yy = f with u = 0 on the
boundary, for f = -2 π² sin(πx) sin(πy). The residual is computed by Taylor mode, in float64.
"""

from __future__ import annotations

import argparse

import numpy as np
import tensorflow as tf

import mlhf
from mlhf import derivatives

STEPS = 60


def network(w: dict[str, tf.Tensor], points: tf.Tensor) -> tf.Tensor:
    """Returns u at the points [n, 2]."""
    return tf.tanh(points @ w["kernel"] + w["bias"]) @ w["output"]


def solution(points: np.ndarray) -> np.ndarray:
    """Returns the solution at the points."""
    return np.sin(np.pi * points[:, :1]) * np.sin(np.pi * points[:, 1:])


def residual(w: dict[str, tf.Tensor], points: tf.Tensor) -> tf.Tensor:
    """Returns u_xx + u_yy - f."""
    u = derivatives.laplacian(lambda p: network(w, p), points)
    f = -2 * np.pi**2 * tf.sin(np.pi * points[:, :1]) * tf.sin(np.pi * points[:, 1:])
    return u.laplacian - f


def run(steps: int = STEPS) -> tuple[np.ndarray, np.ndarray, float, list[float]]:
    """Returns the fit and its error on a grid, the relative error, and the losses."""
    random = np.random.default_rng(0)
    w = {
        "kernel": tf.constant(random.normal(size=(2, 16))),
        "bias": tf.constant(random.normal(size=16)),
        "output": tf.constant(random.normal(size=(16, 1)) / 4),
    }
    side, t = np.linspace(0, 1, 15), np.linspace(0, 1, 25)[:, None]
    inside = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    zero, one = np.zeros_like(t), np.ones_like(t)
    edges = np.concatenate([np.hstack(s) for s in ((t, zero), (t, one), (zero, t), (one, t))])
    objective = mlhf.ObjectiveSum(
        {
            "inside": mlhf.Objective(residual, "squared_error", inside, np.zeros((225, 1))),
            "boundary": mlhf.Objective(network, "squared_error", edges, np.zeros((100, 1))),
        },
        weights={"boundary": 100.0},
    )
    result = mlhf.minimize(objective, w, "lm", steps=steps, progress=False)

    side = np.linspace(0, 1, 41)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    fit, truth = network(result.parameters, tf.constant(grid)).numpy(), solution(grid)
    relative = float(np.linalg.norm(fit - truth) / np.linalg.norm(truth))
    losses = [float(loss) for loss in result.history["loss"]]
    return fit.reshape(41, 41), (fit - truth).reshape(41, 41), relative, losses


def main() -> None:
    """Fits, checks the error against the solution, and draws both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="poisson.png", help="where the picture is written")
    output = parser.parse_args().output
    fit, error, relative, losses = run()
    print(f"relative error {relative:.2g} after {len(losses)} steps")
    assert relative < 1e-3

    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    for axis, values, title in ((axes[0], fit, "the fit u"), (axes[1], error, "its error")):
        shown = axis.imshow(values, origin="lower", extent=(0, 1, 0, 1), cmap="viridis")
        figure.colorbar(shown, ax=axis)
        axis.set(title=title, xlabel="x", ylabel="y")
    axes[2].semilogy(losses, color="#0072B2")
    axes[2].set(title="loss", xlabel="step")
    axes[2].grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(output, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
