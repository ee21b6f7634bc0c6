"""Equations without time: Poisson's, Helmholtz', and a stiff ordinary differential equation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf import derivatives
from train_val.problems.equation_problem import Equation, Term
from train_val.task_families.equations.solution_networks import faces, grid, tanh_network

_PI = math.pi


def poisson(width: int = 32, depth: int = 2, per_axis: int = 30, weight: float = 1.0) -> Equation:
    """Returns -Δu = f on the unit square with u = sin(πx) sin(πy), zero on the boundary."""
    box = [(0.0, 1.0)] * 2
    network, initialize = tanh_network(box, width, depth)

    def inside(parameters: Any, points: tf.Tensor) -> tf.Tensor:
        u = derivatives.laplacian(lambda p: network(parameters, p), points)
        return u.laplacian

    def solution(points: np.ndarray) -> np.ndarray:
        return np.prod(np.sin(_PI * points), 1, keepdims=True)

    points, edge = grid(box, [per_axis] * 2), faces(box, per_axis)
    terms = {
        "inside": Term(inside, points, -2 * _PI**2 * solution(points)),
        "boundary": Term(network, edge, np.zeros((len(edge), 1)), weight),
    }
    test = grid(box, [53, 53])
    return Equation(network, initialize, terms, test, solution(test))


def poisson_5d(
    width: int = 64, depth: int = 1, points: int = 3000, weight: float = 1.0
) -> Equation:
    """Returns -Δu = π² Σ sin(πxᵢ) on the unit cube of R⁵, with u = Σ sin(πxᵢ)."""
    box = [(0.0, 1.0)] * 5
    network, initialize = tanh_network(box, width, depth)

    def inside(parameters: Any, points: tf.Tensor) -> tf.Tensor:
        return derivatives.laplacian(lambda p: network(parameters, p), points).laplacian

    def solution(points: np.ndarray) -> np.ndarray:
        return np.sum(np.sin(_PI * points), 1, keepdims=True)

    random = np.random.default_rng(0)
    cube, edge = random.uniform(size=(points, 5)), faces(box, max(1, points // 60), 1)
    terms = {
        "inside": Term(inside, cube, -(_PI**2) * solution(cube)),
        "boundary": Term(network, edge, solution(edge), weight),
    }
    test = random.uniform(size=(4000, 5))
    return Equation(network, initialize, terms, test, solution(test))


def helmholtz(
    width: int = 48, depth: int = 2, per_axis: int = 40, wave_number: float = 1.0
) -> Equation:
    """Returns Δu + k² u = f on [-1, 1]² with u = sin(πx) sin(4πy) (Wang, Teng and Perdikaris)."""
    box = [(-1.0, 1.0)] * 2
    network, initialize = tanh_network(box, width, depth)
    square = wave_number**2

    def inside(parameters: Any, points: tf.Tensor) -> tf.Tensor:
        u = derivatives.laplacian(lambda p: network(parameters, p), points)
        return u.laplacian + square * u.value

    def solution(points: np.ndarray) -> np.ndarray:
        return np.sin(_PI * points[:, :1]) * np.sin(4 * _PI * points[:, 1:])

    points, edge = grid(box, [per_axis] * 2), faces(box, per_axis)
    terms = {
        "inside": Term(inside, points, (square - 17 * _PI**2) * solution(points)),
        "boundary": Term(network, edge, np.zeros((len(edge), 1)), 100.0),
    }
    test = grid(box, [61, 61])
    return Equation(network, initialize, terms, test, solution(test))


def stiff_ode(
    width: int = 32, depth: int = 1, points: int = 400, stiffness: float = 50.0
) -> Equation:
    """Returns y' = -λ (y - cos t) - sin t, y(0) = 2, on [0, 2] (Prothero and Robinson 1974).

    Its solution is cos t + exp(-λt). The residual is divided by λ.
    """
    box = [(0.0, 2.0)]
    network, initialize = tanh_network(box, width, depth)

    def inside(parameters: Any, points: tf.Tensor) -> tf.Tensor:
        y, slope = derivatives.partials(lambda p: network(parameters, p), points, ["", "t"], "t")
        return (slope + tf.sin(points)) / stiffness + y - tf.cos(points)

    def solution(points: np.ndarray) -> np.ndarray:
        return np.cos(points) + np.exp(-stiffness * points)

    # Half of the points lie where the solution falls, in the first 8 units of 1/λ.
    fall = min(2.0, 8 / stiffness)
    times = np.concatenate([grid([(0.0, fall)], [points // 2]), grid(box, [points - points // 2])])
    terms = {
        "inside": Term(inside, times, np.zeros((len(times), 1))),
        "start": Term(network, np.zeros((1, 1)), np.full((1, 1), 2.0)),
    }
    test = np.concatenate([grid([(0.0, fall)], [501]), grid(box, [501])])
    return Equation(network, initialize, terms, test, solution(test))
