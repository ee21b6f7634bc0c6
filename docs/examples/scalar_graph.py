"""z = xy + exp(x + 3) at (3, 4): its value, its derivatives, and pictures of both computations.

`python docs/examples/scalar_graph.py --output_dir=pictures` prints the numbers and writes two SVGs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf

from mlhf import custom_op


def z(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Returns z."""
    return x * y + tf.exp(x + 3)


def run(output_dir: str | Path) -> dict[str, float]:
    """Computes and draws z and its derivatives; returns the numbers."""
    point = tf.constant(3.0, tf.float64), tf.constant(4.0, tf.float64)
    linear = custom_op.linearize(lambda p: z(*p), point)
    slope_x, slope_y = linear.vjp(tf.ones([], tf.float64))
    # The same by R-forward, and the second derivative by R-forward applied twice.
    along_x = tf.constant(1.0, tf.float64), tf.constant(0.0, tf.float64)

    def slope(p):
        return custom_op.jvp(lambda p: z(*p), p, along_x)[1]

    pushed, curvature = custom_op.jvp(slope, point, along_x)

    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    custom_op.draw(z, *point).save(folder / "z.svg")
    custom_op.draw(z, *point, derivatives=["reverse"]).save(folder / "slopes_of_z.svg")
    return {
        "z": float(linear.outputs),
        "dz/dx": float(slope_x),
        "dz/dx by R-forward": float(pushed),
        "dz/dy": float(slope_y),
        "d²z/dx²": float(curvature),
    }


def main() -> None:
    """Prints the numbers and checks them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", default="pictures")
    numbers = run(parser.parse_args().output_dir)
    for name, number in numbers.items():
        print(f"{name:20}{number:.4f}")
    expected = {"z": 415.4288, "dz/dx": 407.4288, "dz/dy": 3.0, "d²z/dx²": 403.4288}
    for name, number in expected.items():
        np.testing.assert_allclose(numbers[name], number, atol=5e-5)
    np.testing.assert_allclose(numbers["dz/dx by R-forward"], numbers["dz/dx"])


if __name__ == "__main__":
    main()
