"""Reference solutions of equations that have no closed form, by quadrature and Fourier series."""

from __future__ import annotations

import functools
import math

import numpy as np

BURGERS_VISCOSITY = 0.01 / math.pi
ALLEN_CAHN_DIFFUSION = 1e-4


def burgers(points: np.ndarray, nodes: int = 200) -> np.ndarray:
    """Returns the solution of Burgers' equation that begins with -sin(πx), at points (x, t).

    By Cole and Hopf's transformation it is a quotient of two integrals with the weight
    exp(-η²/4νt), which Gauss-Hermite quadrature takes.

    Args:
      points: The points, [N, 2], t at least 0.
      nodes: The number of nodes of the quadrature.

    Returns:
      The values, [N, 1].
    """
    z, w = np.polynomial.hermite.hermgauss(nodes)
    x, t = points[:, :1], points[:, 1:]
    y = x - np.sqrt(4 * BURGERS_VISCOSITY * t) * z
    exponent = -np.cos(np.pi * y) / (2 * np.pi * BURGERS_VISCOSITY)
    # The largest term would overflow for small viscosities.
    weights = w * np.exp(exponent - exponent.max(1, keepdims=True))
    return -np.sum(weights * np.sin(np.pi * y), 1, keepdims=True) / weights.sum(1, keepdims=True)


@functools.cache
def allen_cahn(modes: int = 512, steps: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Returns points (x, t) and the solution of Allen and Cahn's equation there.

    A Fourier method in space; in time Runge and Kutta's method of order 4 with the diffusion as an
    integrating factor.

    Args:
      modes: The number of points in space, a multiple of 128.
      steps: The number of steps to t = 1, a multiple of 10.

    Returns:
      The points, 128 in space at t = 0.1, 0.2 ... 1, [1280, 2], and the values, [1280, 1].
    """
    x = -1 + 2 * np.arange(modes) / modes
    waves = np.pi * np.fft.rfftfreq(modes, 1 / modes)
    h = 1 / steps
    half = np.exp(-ALLEN_CAHN_DIFFUSION * waves**2 * h / 2)
    full = half**2

    def reaction(v: np.ndarray) -> np.ndarray:
        u = np.fft.irfft(v, modes)
        return h * 5 * np.fft.rfft(u - u**3)

    # Its slope jumps where the period ends: sampled finely, so that the coefficients are right.
    fine = -1 + np.arange(64 * modes) / (32 * modes)
    v = np.fft.rfft(fine**2 * np.cos(np.pi * fine))[: modes // 2 + 1] / 64
    points, values = [], []
    every = modes // 128
    for step in range(1, steps + 1):
        a = reaction(v)
        b = reaction(half * (v + a / 2))
        c = reaction(half * v + b / 2)
        d = reaction(full * v + half * c)
        v = full * v + (full * a + 2 * half * (b + c) + d) / 6
        if step % (steps // 10) == 0:
            chosen = x[::every]
            points.append(np.stack([chosen, np.full_like(chosen, step * h)], 1))
            values.append(np.fft.irfft(v, modes)[::every])
    return np.concatenate(points), np.concatenate(values)[:, None]
