"""A small training in NumPy alone: two leaves, a loss that changes by step, all dynamics.

    L_t(w) = Σ x_t² a sin a + Σ λ b² + ¼ c Σ b⁴ + tanh(a₀ b₀)
    E(w) = b₀ Σ (a - 1)² + Σ b³ + κ a₀

It is there to be differentiated by finite differences, by code that shares nothing with the
project's.
"""

import numpy as np

STEPS = 6


def data(step):
    return np.sin(1.7 * step + np.arange(3.0))


def loss_gradient(a, b, lam, c, step):
    x2 = data(step) ** 2
    t = 1 - np.tanh(a[0] * b[0]) ** 2
    ga = x2 * (np.cos(a) * a + np.sin(a))
    ga[0] += t * b[0]
    gb = 2 * lam * b + c * b**3
    gb[0] += t * a[0]
    return ga, gb


def loss(a, b, lam, c, step):
    return (
        np.sum(data(step) ** 2 * np.sin(a) * a)
        + np.sum(lam * b**2)
        + c * np.sum(b**4) / 4
        + np.tanh(a[0] * b[0])
    )


def outer(a, b, kappa):
    return np.sum((a - 1) ** 2) * b[0] + np.sum(b**3) + kappa * a[0]


def train(w, hyper, dynamics, form=None, nesterov=False, eps=1e-6, steps=STEPS):
    """Returns the last weights [5]. Rates, momenta and betas are [T, 5]."""
    w = np.array(w, float)
    v = np.array(hyper.get("v0", np.zeros(5)), float)
    before = w - v
    m, s, p1, p2 = np.zeros(5), np.zeros(5), np.ones(5), np.ones(5)

    def gradient(w, t):
        return np.concatenate(loss_gradient(w[:3].copy(), w[3:], hyper["lam"], hyper["c"], t))

    for t in range(steps):
        rate = hyper["learning_rate"][t]
        if dynamics == "gd":
            w = w - rate * gradient(w, t)
        elif dynamics == "backtracking":
            g, factor = gradient(w, t), 1.0
            here = loss(w[:3], w[3:], hyper["lam"], hyper["c"], t)
            while True:
                there = w - factor * rate * g
                value = loss(there[:3], there[3:], hyper["lam"], hyper["c"], t)
                if value <= here - 0.5 * factor * np.sum(rate * g * g):
                    break
                factor /= 2
            w = there
        elif dynamics == "adam":
            b1, b2 = hyper["beta1"][t], hyper["beta2"][t]
            g = gradient(w, t)
            m, s = b1 * m + (1 - b1) * g, b2 * s + (1 - b2) * g**2
            p1, p2 = p1 * b1, p2 * b2
            w = w - rate * np.sqrt(1 - p2) / (1 - p1) * m / np.sqrt(s + eps)
        else:
            mu = hyper["momentum"][t]
            if form == "M3":
                at = w + mu * (w - before) if nesterov else w
                w, before = w + mu * (w - before) - rate * gradient(at, t), w
                continue
            g = gradient(w, t)
            push = {"M1": -(1 - mu) * g, "M2": g, "M4": -rate * g}[form]
            v = mu * v + push
            along = mu * v + push if nesterov else v
            w = w + {"M1": rate, "M2": -rate, "M4": 1.0}[form] * along
    return w
