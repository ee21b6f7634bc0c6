"""Dense derivatives of a random network by differences of its forward pass alone.

Central differences at three steps, each half the previous one, are extrapolated twice (Richardson
1911): the error falls with the sixth power of the step. The difference of two extrapolations tells
the accuracy, and so reveals kinks and rounding errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks.random_cases.networks.program import Program

STEP = 0.004  # the largest one
STEP_SINGLE = 0.2  # for a network with parts in float32, accurate to 1e-7


@dataclasses.dataclass
class Estimate:
    """Numbers with their error bounds."""

    value: np.ndarray
    error: np.ndarray


@dataclasses.dataclass
class Reference:
    """The reference for the products of a network.

    Attributes:
      outputs: The outputs z, [M].
      v: A direction in the parameters, [P].
      u: A direction in the outputs, [M].
      products: The products `"J v"`, `"JT u"`, `"gradient"`, `"G v"` and `"H v"`.
      gauss_newton: The matrix G, [P, P].
      known: Whether all of them are accurate enough.
    """

    outputs: np.ndarray
    v: np.ndarray
    u: np.ndarray
    products: dict[str, Estimate]
    gauss_newton: np.ndarray
    known: bool


def compute(program: Program, seed: int) -> Reference:
    """Computes the reference of a network.

    Args:
      program: The network.
      seed: The seed of the directions.

    Returns:
      The reference.
    """
    network = program.network()

    @tf.function(autograph=False)
    def traced(flat: tf.Tensor) -> tf.Tensor:
        return network(program.structure(flat))

    program.stops.frozen = True
    try:
        forward = traced.get_concrete_function(tf.TensorSpec([program.point().size], tf.float64))
    finally:
        program.stops.frozen = False

    def outputs(flat: np.ndarray) -> np.ndarray:
        return np.asarray(forward(tf.constant(flat)))

    point = program.point()
    z = outputs(point)
    random = np.random.default_rng([seed, 1])
    v = random.uniform(-1, 1, point.size)
    u = random.normal(size=z.size)
    step = STEP_SINGLE if program.single else STEP
    units = np.eye(point.size)

    value = loss_value(program, z)
    along = {-1: _Line(program, outputs, point, v, step)}
    columns = []
    for i, unit in enumerate(units):
        along[i] = _Line(program, outputs, point, unit, step)
        columns.append(along[i].slope())
    jacobian = np.stack([column.value for column in columns], 1)
    error = np.stack([column.error for column in columns], 1)
    slope, curvature = loss_derivatives(program, z)
    digits = 6e-8 if program.single else 1e-16
    # Rounding errors of the outputs, through their differences.
    error += digits * max(1.0, np.max(np.abs(z), initial=0)) / (step / 4) / 10
    # Rounding errors of the loss, through its second differences.
    noise = 16 * digits * max(1.0, abs(value)) / (step / 4) ** 2
    entries = []
    for i, unit in enumerate(units):
        # v'H e = ((v + e)'H (v + e) - v'H v - e'H e) / 2, at each step.
        both = _Line(program, outputs, point, unit + v, step)
        sides = zip(both.bends(value), along[i].bends(value), along[-1].bends(value), strict=True)
        entries.append(_extrapolated([np.asarray((a - b - c) / 2) for a, b, c in sides]))
    size, bound = np.abs(jacobian), np.abs(curvature)
    products = {
        "J v": Estimate(jacobian @ v, error @ np.abs(v)),
        "JT u": Estimate(jacobian.T @ u, error.T @ np.abs(u)),
        "gradient": Estimate(jacobian.T @ slope, error.T @ np.abs(slope)),
        "G v": Estimate(
            jacobian.T @ (curvature @ (jacobian @ v)),
            error.T @ (bound @ (size @ np.abs(v))) + size.T @ (bound @ (error @ np.abs(v))),
        ),
        "H v": Estimate(
            np.array([float(e.value) for e in entries]),
            noise / 10 + np.array([float(e.error) for e in entries]),
        ),
    }
    allowed = 3e-4 if program.single else 1e-5
    known = all(
        np.max(p.error, initial=0) <= allowed * np.max(np.abs(p.value), initial=1e-3)
        for p in products.values()
    )
    known = known and bool(np.all(np.isfinite(z)))
    # A parameter that nothing depends on is an error in custom_op.
    ends = np.cumsum([values.size for values in program.parameters.values()])[:-1]
    known = known and all(np.any(part) for part in np.split(jacobian, ends, axis=1))
    return Reference(z, v, u, products, jacobian.T @ curvature @ jacobian, known)


def _extrapolated(differences: list[np.ndarray]) -> Estimate:
    first = [(4 * b - a) / 3 for a, b in zip(differences, differences[1:], strict=False)]
    second = (16 * first[1] - first[0]) / 15
    return Estimate(second, np.abs(second - first[1]))


class _Line:
    """The outputs and the loss at both sides of the point along a direction."""

    def __init__(
        self,
        program: Program,
        outputs: Callable[[np.ndarray], np.ndarray],
        point: np.ndarray,
        direction: np.ndarray,
        step: float,
    ) -> None:
        self._steps = [step, step / 2, step / 4]
        sides = [(outputs(point + h * direction), outputs(point - h * direction))
                 for h in self._steps]  # fmt: skip
        self._outputs = sides
        self._losses = [(loss_value(program, a), loss_value(program, b)) for a, b in sides]

    def slope(self) -> Estimate:
        """Returns the outputs' derivative along the direction."""
        return _extrapolated(
            [
                (a - b).reshape(-1) / (2 * h)
                for (a, b), h in zip(self._outputs, self._steps, strict=True)
            ]
        )

    def bends(self, value: float) -> list[float]:
        """Returns the loss's second differences along the direction, one per step."""
        return [
            (a - 2 * value + b) / h**2 for (a, b), h in zip(self._losses, self._steps, strict=True)
        ]


def loss_value(program: Program, z: np.ndarray) -> float:
    """Returns the mean loss at outputs z."""
    y, weights = program.targets, _weights(program, z)
    if program.loss == "softmax_cross_entropy":
        y = y if y.ndim == z.ndim else np.eye(z.shape[-1])[y]
        logarithms = np.log(np.sum(np.exp(z), -1))
        terms = np.sum(y, -1) * logarithms - np.sum(y * z, -1)
        return float(np.sum(weights[..., 0] * terms) / terms.size)
    if program.loss == "squared_error":
        return float(np.sum(weights * (z - y) ** 2) / (2 * len(z)))
    if program.loss == "mean_squared_error":
        return float(np.sum(weights * (z - y) ** 2) / z.size)
    terms = np.log1p(np.exp(-z)) + (1 - y) * z
    return float(np.sum(weights * terms) / z.size)


def loss_derivatives(program: Program, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the gradient [M] and the Hessian [M, M] of the mean loss in z, in closed form."""
    y, weights = program.targets, _weights(program, z)
    if program.loss == "softmax_cross_entropy":
        y = y if y.ndim == z.ndim else np.eye(z.shape[-1])[y]
        s = np.exp(z) / np.sum(np.exp(z), -1, keepdims=True)
        mass = np.sum(y, -1, keepdims=True)
        slope = weights * (mass * s - y) / len(z)
        dense = np.zeros((z.size, z.size))
        for i, row in enumerate(s):
            block = slice(i * row.size, (i + 1) * row.size)
            factor = weights[i, 0] * mass[i, 0] / len(z)
            dense[block, block] = factor * (np.diag(row) - np.outer(row, row))
        return slope.reshape(-1), dense
    if program.loss == "squared_error":
        slope, diagonal = (z - y) / len(z), np.ones_like(z) / len(z)
    elif program.loss == "mean_squared_error":
        slope, diagonal = 2 * (z - y) / z.size, 2 * np.ones_like(z) / z.size
    else:
        s = 1 / (1 + np.exp(-z))
        slope, diagonal = (s - y) / z.size, s * (1 - s) / z.size
    return (weights * slope).reshape(-1), np.diag((weights * diagonal).reshape(-1))


def _weights(program: Program, z: np.ndarray) -> np.ndarray:
    """Returns the weight of each output's term, of the shape of z."""
    if program.weights is None:
        return np.ones_like(z)
    return np.broadcast_to(program.weights.reshape([-1] + [1] * (z.ndim - 1)), z.shape)
