"""The same trainings in NumPy, with handwritten gradients, and finite differences of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.random_cases.hypergradients.generator import Case

# f and f'.
FUNCTIONS: dict[str, Any] = {
    "half_square": (lambda z: z**2 / 2, lambda z: z),
    "log_cosh": (lambda z: np.logaddexp(z, -z), np.tanh),
    "softplus": (lambda z: np.logaddexp(0, z), lambda z: 1 / (1 + np.exp(-z))),
    "sine": (np.sin, np.cos),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "bell": (lambda z: np.exp(-(z**2)), lambda z: -2 * z * np.exp(-(z**2))),
}
EPSILON_ROOT = 1e-4


def spread(case: Case, value: np.ndarray) -> np.ndarray:
    """Spreads one number, or one per leaf in the last axis, to one per weight."""
    value = np.asarray(value)
    if value.ndim == 0 or value.shape[-1] == 1:
        return np.broadcast_to(value, [*value.shape[:-1], sum(case.sizes)])
    return np.repeat(value, case.sizes, axis=-1)


def gradient(case: Case, values: dict[str, np.ndarray], w: np.ndarray, step: int) -> np.ndarray:
    """Returns the gradient of a step's training loss at weights [P]."""
    z = case.rows[0][step] @ w - case.value(values, "targets")
    slopes = np.array([FUNCTIONS[f][1](x) for f, x in zip(case.functions[0], z, strict=True)])
    l2 = case.value(values, "l2")
    l2 = l2[step] if "l2" in case.schedules else l2
    return (case.value(values, "data") * slopes) @ case.rows[0][step] + 2 * spread(case, l2) * w


def outer(case: Case, values: dict[str, np.ndarray], w: np.ndarray) -> float:
    """Returns the validation loss at weights [P]."""
    z = case.rows[1] @ w - case.targets
    total = sum(FUNCTIONS[f][0](x) for f, x in zip(case.functions[1], z, strict=True))
    return float(total + case.value(values, "kappa") * w[0])


def own(case: Case, values: dict[str, np.ndarray], name: str, step: int) -> np.ndarray:
    """Returns a hyperparameter of the dynamics in a step, one number per weight."""
    value = case.value(values, name)
    if value.ndim == 2:
        value = value[step if value.shape[0] == case.steps else 0]
    return spread(case, value)


def first_weights(case: Case, values: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the initial weights, [P]."""
    noise = case.value(values, "initial_weights")
    return case.value(values, "scale") * noise if case.start == "scale" else noise


def train(case: Case, values: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the weights [P] after training."""
    w = first_weights(case, values)
    v = values.get("initial_velocity", np.zeros_like(w))
    if case.kind == "adam":
        return _adam(case, values, w)
    before = w - v  # of M3
    for step in range(case.steps):
        rate = own(case, values, "learning_rate", step)
        if case.kind == "gd":
            w = w - rate * gradient(case, values, w, step)
            continue
        mu = own(case, values, "momentum", step)
        if case.kind == "M3":
            ahead = w + mu * (w - before)
            g = gradient(case, values, ahead if case.nesterov else w, step)
            w, before = ahead - rate * g, w
            continue
        g = gradient(case, values, w, step)
        push = {"M1": -(1 - mu) * g, "M2": g, "M4": -rate * g}[case.kind]
        v = mu * v + push
        along = mu * v + push if case.nesterov else v
        w = w + {"M1": rate, "M2": -rate, "M4": 1.0}[case.kind] * along
    return w


def _adam(case: Case, values: dict[str, np.ndarray], w: np.ndarray) -> np.ndarray:
    m, s = np.zeros_like(w), np.zeros_like(w)
    decay1, decay2 = np.ones_like(w), np.ones_like(w)
    for step in range(case.steps):
        g = gradient(case, values, w, step)
        rate, b1, b2 = (own(case, values, n, step) for n in ("learning_rate", "beta1", "beta2"))
        m, s = b1 * m + (1 - b1) * g, b2 * s + (1 - b2) * g**2
        decay1, decay2 = decay1 * b1, decay2 * b2
        w = w - rate * np.sqrt(1 - decay2) / (1 - decay1) * m / np.sqrt(s + EPSILON_ROOT)
    return w


def optimum(case: Case, values: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the minimum [P] of the first step's loss, by Newton's method on its gradient."""
    w = np.zeros(sum(case.sizes))
    for _ in range(200):
        g = gradient(case, values, w, 0)
        if np.abs(g).max() < 1e-14:
            break
        h = 1e-6
        units = np.eye(len(w)) * h
        hessian = np.array(
            [gradient(case, values, w + u, 0) - gradient(case, values, w - u, 0) for u in units]
        ) / (2 * h)
        move, size = np.linalg.solve((hessian + hessian.T) / 2, g), 1.0
        while (
            size > 1e-3
            and np.abs(gradient(case, values, w - size * move, 0)).max() > np.abs(g).max()
        ):
            size /= 2
        w = w - size * move
    return w


def differences(case: Case, end: Any) -> tuple[dict[str, np.ndarray], float]:
    """Returns the hypergradient by differences of whole trainings, and its accuracy.

    Args:
      case: The problem.
      end: A function from the case and hyperparameters to the final weights.

    Returns:
      The hypergradient by name, extrapolated from two widths (Richardson), and the largest change
      by the extrapolation, relative to the largest entry.
    """

    def at(values: dict[str, np.ndarray]) -> float:
        return outer(case, values, end(case, values))

    found, apart, largest = {}, 0.0, 1e-12
    for name, value in case.hyper.items():
        found[name] = np.zeros(value.shape)
        for index in np.ndindex(value.shape):
            slopes = []
            for width in (2e-4, 1e-4):
                ends = []
                for sign in (1, -1):
                    moved = np.array(value)
                    moved[index] += sign * width
                    ends.append(at({**case.hyper, name: moved}))
                slopes.append((ends[0] - ends[1]) / (2 * width))
            found[name][index] = (4 * slopes[1] - slopes[0]) / 3
            apart = max(apart, float(abs(found[name][index] - slopes[1])))
        largest = max(largest, float(np.abs(found[name]).max()))
    return found, apart / largest
