"""Equations in x and t: heat, Burgers', Allen and Cahn's, and heat with an unknown coefficient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf import derivatives
from train_val.problems.equation_problem import Equation, Residual, Term
from train_val.task_families.equations import references
from train_val.task_families.equations.solution_networks import grid, tanh_network

_PI = math.pi
_CONDUCTIVITY = 0.25


def _start(x: tuple[float, float], count: int) -> np.ndarray:
    """Returns points at time 0."""
    return np.concatenate([grid([x], [count]), np.zeros((count, 1))], 1)


def _sides(x: tuple[float, float], until: float, count: int) -> np.ndarray:
    """Returns points at both ends of the interval."""
    times = grid([(0.0, until)], [count])
    return np.concatenate([np.hstack([0 * times + end, times]) for end in x])


def _heat_solution(points: np.ndarray) -> np.ndarray:
    decay = np.exp(-_CONDUCTIVITY * _PI**2 * points[:, 1:])
    return decay * np.sin(_PI * points[:, :1])


def _first_terms(
    network: Residual, x: tuple[float, float], count: int, initial: Callable[..., np.ndarray]
) -> dict[str, Term]:
    """Returns the terms of the start and of zero at both ends."""
    start, sides = _start(x, count), _sides(x, 1.0, count)
    return {
        "start": Term(network, start, initial(start[:, :1]), 10.0),
        "boundary": Term(network, sides, np.zeros((len(sides), 1)), 10.0),
    }


def heat(width: int = 32, depth: int = 2, per_axis: int = 30) -> Equation:
    """Returns u_t = ¼ u_xx on [0, 1]², u = sin(πx) at first and zero at the ends."""
    box = [(0.0, 1.0)] * 2
    network, initialize = tanh_network(box, width, depth)

    def inside(parameters: Any, points: tf.Tensor) -> tf.Tensor:
        u_t, u_xx = derivatives.partials(
            lambda p: network(parameters, p), points, ["t", "xx"], "xt"
        )
        return u_t - _CONDUCTIVITY * u_xx

    points = grid(box, [per_axis] * 2)
    terms = {
        "inside": Term(inside, points, np.zeros((len(points), 1))),
        **_first_terms(network, (0.0, 1.0), 2 * per_axis, lambda x: np.sin(_PI * x)),
    }
    test = grid(box, [53, 53])
    return Equation(network, initialize, terms, test, _heat_solution(test))


def inverse_heat(
    width: int = 32, depth: int = 2, per_axis: int = 30, observations: int = 60
) -> Equation:
    """Returns u_t = a u_xx with an unknown a, from values of its solution; a is ¼.

    The coefficient is the parameter `coefficient`, which starts at 1. Values of the solution are
    known at points drawn inside, without noise.
    """
    box = [(0.0, 1.0)] * 2
    network, initialize_network = tanh_network(box, width, depth)

    def inside(parameters: Any, points: tf.Tensor) -> tf.Tensor:
        u_t, u_xx = derivatives.partials(
            lambda p: network(parameters, p), points, ["t", "xx"], "xt"
        )
        return u_t - parameters["coefficient"] * u_xx

    def initialize(seed: int) -> dict[str, Any]:
        return {**initialize_network(seed), "coefficient": tf.ones([], tf.float64)}

    points = grid(box, [per_axis] * 2)
    seen = np.random.default_rng(0).uniform(size=(observations, 2))
    terms = {
        "data": Term(network, seen, _heat_solution(seen), 10.0),
        "inside": Term(inside, points, np.zeros((len(points), 1))),
    }
    test = grid(box, [53, 53])
    kinds = {"coefficient": "dense_bias"}
    return Equation(network, initialize, terms, test, _heat_solution(test), kinds)


def burgers(width: int = 32, depth: int = 3, per_axis: int = 48) -> Equation:
    """Returns u_t + u u_x = ν u_xx on [-1, 1] x [0, 1], ν = 0.01/π, u = -sin(πx) at first.

    A shock forms at x = 0. The reference is Cole and Hopf's solution by quadrature (Basdevant et
    al. 1986; the setting is that of Raissi, Perdikaris and Karniadakis 2019).
    """
    box = [(-1.0, 1.0), (0.0, 1.0)]
    network, initialize = tanh_network(box, width, depth)

    def inside(parameters: Any, points: tf.Tensor) -> tf.Tensor:
        u, u_x, u_t, u_xx = derivatives.partials(
            lambda p: network(parameters, p), points, ["", "x", "t", "xx"], "xt"
        )
        return u_t + u * u_x - references.BURGERS_VISCOSITY * u_xx

    points = grid(box, [2 * per_axis, per_axis])
    terms = {
        "inside": Term(inside, points, np.zeros((len(points), 1))),
        **_first_terms(network, (-1.0, 1.0), 2 * per_axis, lambda x: -np.sin(_PI * x)),
    }
    test = grid(box, [100, 40])
    return Equation(network, initialize, terms, test, references.burgers(test))


def allen_cahn(width: int = 32, depth: int = 3, per_axis: int = 48) -> Equation:
    """Returns u_t = 10⁻⁴ u_xx + 5 (u - u³) on [-1, 1] x [0, 1], periodic, u = x² cos(πx) at first.

    The reference is a Fourier method's (`references.allen_cahn`).
    """
    box = [(-1.0, 1.0), (0.0, 1.0)]
    network, initialize = tanh_network(box, width, depth)

    def inside(parameters: Any, points: tf.Tensor) -> tf.Tensor:
        u, u_t, u_xx = derivatives.partials(
            lambda p: network(parameters, p), points, ["", "t", "xx"], "xt"
        )
        return u_t - references.ALLEN_CAHN_DIFFUSION * u_xx - 5 * (u - u**3)

    def jumps(parameters: Any, points: tf.Tensor) -> tf.Tensor:
        # The left end's value and slope less the right end's.
        def value_and_slope(points: tf.Tensor) -> tf.Tensor:
            both = derivatives.partials(lambda p: network(parameters, p), points, ["", "x"], "xt")
            return tf.concat(both, 1)

        return value_and_slope(points) - value_and_slope(
            points * tf.constant([[-1.0, 1.0]], points.dtype)
        )

    points, start = grid(box, [2 * per_axis, per_axis]), _start(box[0], 4 * per_axis)
    left = _sides((-1.0, -1.0), 1.0, per_axis)[:per_axis]
    terms = {
        "inside": Term(inside, points, np.zeros((len(points), 1))),
        "periodic": Term(jumps, left, np.zeros((len(left), 2))),
        "start": Term(network, start, start[:, :1] ** 2 * np.cos(_PI * start[:, :1]), 100.0),
    }
    test, reference = references.allen_cahn()
    return Equation(network, initialize, terms, test, reference)
