"""tanh and its first four derivatives, by nested R-forward, plotted on [-7, 7].

`python docs/examples/tanh_derivatives.py --output=tanh.png` writes the plot.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mlhf import custom_op

POINTS = np.linspace(-7, 7, 200)
# The largest and the smallest value of each curve on these points.
EXTREMA = [(1.0, -1.0), (1.0, 0.0), (0.77, -0.77), (0.667, -2.0), (4.09, -4.09)]


def derivative(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the derivative of an elementwise function: its tangent along ones."""
    return lambda x: custom_op.jvp(function, x, tf.ones_like(x))[1]


def run() -> np.ndarray:
    """Returns tanh and its first four derivatives, [5, 200]."""

    @tf.function(autograph=False)
    def all_orders(x):
        functions = [tf.tanh]
        for _ in range(4):
            functions.append(derivative(functions[-1]))
        return tf.stack([function(x) for function in functions])

    return all_orders(tf.constant(POINTS)).numpy()


def main() -> None:
    """Checks the curves against closed forms and plots them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="tanh.png", help="where the plot is written")
    output = parser.parse_args().output
    curves = run()
    for order, (curve, (high, low)) in enumerate(zip(curves, EXTREMA, strict=True)):
        print(f"order {order}: from {curve.min():.4f} to {curve.max():.4f}")
        # A grid of 200 points misses the extrema themselves by up to 1%.
        np.testing.assert_allclose([curve.max(), curve.min()], [high, low], rtol=0.01, atol=1e-3)
    y = np.tanh(POINTS)
    closed_forms = [
        y,
        1 - y**2,
        -2 * y * (1 - y**2),
        (1 - y**2) * (6 * y**2 - 2),
        (1 - y**2) * (16 * y - 24 * y**3),
    ]
    np.testing.assert_allclose(curves, closed_forms, atol=1e-12)

    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for order, curve in enumerate(curves):
        axes.plot(POINTS, curve, label="tanh" if order == 0 else f"derivative {order}")
    axes.legend()
    axes.set_xlabel("x")
    axes.grid(alpha=0.3)
    figure.savefig(output, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
