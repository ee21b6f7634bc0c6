"""MLHF once more in NumPy, from the mathematics alone, for the tests to compare with.

Everything is analytic in its inputs and takes complex numbers and any leading axes, so that
derivatives come by the complex step (Squire and Trapp 1998), exact to rounding: f'(a) is
imag f(a + iε)/ε for an ε as small as one likes. Products with matrices are products with dense
matrices, and the Jacobian of the network is a complex step too.

Here are the coordinates in the order of `tf.nest.flatten`, without any padding; `Setup` translates
to and from the layouts of `mlhf`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

import mlhf
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights, initial_weights
from mlhf.meta_optimizer.rule import MetaState
from mlhf.meta_training.rollout import Carry

STEP = 1e-40
BATCH = 4
CLASSES = 3
DECAY = 0.02
KINDS = ["conv_kernel", "dense_bias", "dense_kernel"]
# How many coordinates each kind has, in the order of the flat vector.
COUNTS = [8, 3, 24]
SIZE = sum(COUNTS)
ROLES = ("x", "y", "d")


# The network: a convolution, a tanh, a dense layer.


def network(parameters, images):
    """The network in TensorFlow."""
    hidden = tf.tanh(tf.nn.conv2d(images, parameters["conv"]["kernel"], 1, "VALID"))
    dense = parameters["dense"]
    return tf.reshape(hidden, [images.shape[0], -1]) @ dense["kernel"] + dense["bias"]


def structure(w):
    """A flat vector as the network's parameters."""
    return {
        "conv": {"kernel": tf.constant(w[:8].reshape(2, 2, 1, 2))},
        "dense": {"bias": tf.constant(w[8:11]), "kernel": tf.constant(w[11:].reshape(8, 3))},
    }


def flat(parameters):
    """The other way round."""
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in tf.nest.flatten(parameters)])


def outputs(w, images):
    """The network in NumPy: w [..., 35] to z [..., B, 3]."""
    kernel = w[..., :8].reshape(*w.shape[:-1], 1, 4, 2)
    count = len(images)
    corners = [images[:, i : i + 2, j : j + 2, 0] for i in range(2) for j in range(2)]
    patches = np.stack([corner.reshape(count, 4) for corner in corners], 1)
    hidden = np.tanh(patches @ kernel).reshape(*w.shape[:-1], count, 8)
    return hidden @ w[..., 11:].reshape(*w.shape[:-1], 8, 3) + w[..., None, 8:11]


def data_loss(w, batch):
    """The mean softmax cross entropy."""
    images, labels = batch
    z = outputs(w, images)
    z = z - z.real.max(-1, keepdims=True)
    logarithms = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return -logarithms[..., np.arange(BATCH), labels].mean(-1)


def loss(w, batch):
    """With weight decay."""
    return data_loss(w, batch) + 0.5 * DECAY * (w * w).sum(-1)


def gradient_and_curvature(w, batch, share=1.0):
    """g and the dense G = Jᵀ H J of the first examples, both with the weight decay's part."""
    images, labels = batch
    moved = w + 1j * STEP * np.eye(SIZE)
    jacobian = outputs(moved, images).imag / STEP  # [P, B, K]
    z = outputs(w, images)
    s = np.exp(z - z.max(-1, keepdims=True))
    s /= s.sum(-1, keepdims=True)
    g = np.einsum("pbk,bk->p", jacobian, s - np.eye(CLASSES)[labels]) / BATCH
    count = round(share * BATCH)
    s, jacobian = s[:count], jacobian[:, :count]
    hessian = np.stack([np.diag(row) - np.outer(row, row) for row in s]) / count
    G = np.einsum("pbk,bkl,qbl->pq", jacobian, hessian, jacobian)
    return g + DECAY * w, G + DECAY * np.eye(SIZE)


# The coordinate-wise LSTM.


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softplus(z):
    return np.log1p(np.exp(z))


def lstm_cell(kernel, bias, values, hidden, cell):
    """One layer on the coordinates of a kind: values [..., N, in], hidden and cell [..., N, 4]."""
    lead = np.broadcast_shapes(values.shape[:-1], hidden.shape[:-1])
    parts = [np.broadcast_to(part, (*lead, part.shape[-1])) for part in (values, hidden)]
    drive = np.concatenate(parts, -1) @ kernel + bias[..., None, :]
    i, f, o, candidate = np.split(drive, 4, -1)
    cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(candidate)
    return sigmoid(o) * np.tanh(cell), cell


def lstm(weights, inputs, state, counts=COUNTS):
    """All coordinates: `weights` has the kinds behind the leading axes, the state is [..., N, 16].

    Returns the outputs [..., N] and the new state.
    """
    features = np.tanh(np.stack(np.broadcast_arrays(*inputs), -1))
    drives, states = [], []
    start = 0
    for kind, count in enumerate(counts):
        here = slice(start, start + count)
        start += count
        before = state[..., here, :]
        own = {name: weights[name][..., kind, :, :] for name in ("kernel1", "kernel2")}
        own |= {name: weights[name][..., kind, :] for name in ("bias1", "bias2", "dense")}
        values = features[..., here, :]
        h1, c1, h2, c2 = np.split(before, 4, -1)
        h1, c1 = lstm_cell(own["kernel1"], own["bias1"], values, h1, c1)
        h2, c2 = lstm_cell(own["kernel2"], own["bias2"], h1, h2, c2)
        drive = (h2 @ own["dense"][..., None])[..., 0]
        drives.append(drive + weights["dense_bias"][..., kind, None])
        states.append(np.concatenate(np.broadcast_arrays(h1, c1, h2, c2), -1))
    lead = np.broadcast_shapes(*[drive.shape[:-1] for drive in drives])
    drives = [np.broadcast_to(drive, (*lead, drive.shape[-1])) for drive in drives]
    states = [np.broadcast_to(state, (*lead, *state.shape[-2:])) for state in states]
    return np.concatenate(drives, -1), np.concatenate(states, -2)


# One step, and a rollout.


def dot(a, b):
    return (a * b).sum(-1)


def floored(a):
    return np.where(a.real > 1e-6, a, 1e-6)


def conjugate_gradient(A, r, x, P, iterations):
    """The paper's; A is a function. Returns x, r and the iterations used."""
    y = P * r
    p, rho, used = y, dot(r, y), 0
    while used < iterations and np.sqrt(dot(r, r)).real.max() >= 1e-6:
        product = A(p)
        alpha = rho / floored(dot(p, product))
        x = x + alpha[..., None] * p
        r = r - alpha[..., None] * product
        y = P * r
        new = dot(r, y)
        p = y + (new / floored(rho))[..., None] * p
        rho = new
        used += 1
    return x, r, used


def scaled(rule, vectors, at=None):
    """What an LSTM sees: vectors by the root mean squares of their variables' entries at `at`."""
    if rule.input_scale == "none":
        return seen(rule, vectors)
    edges = np.cumsum(COUNTS)[:-1]
    means = [
        np.concatenate([np.full(p.size, np.sqrt(np.mean(p**2))) for p in np.split(v, edges)])
        for v in (vectors if at is None else at)
    ]
    return seen(rule, [v / mean for v, mean in zip(vectors, means, strict=True)])


def seen(rule, vectors):
    return tuple(v * (name in rule.inputs) for name, v in zip("grx", vectors, strict=True))


def propose(rule, theta, g, G, r_before, x_before, states, damping, record=None):
    """Steps 2 to 6 of the design. Returns a dictionary of everything on the way.

    A record says where the scales of the inputs are taken, which are constants.
    """
    states = dict(states)
    memory = scaled(rule, (g, r_before, x_before))
    delta = np.full(SIZE, damping)
    if rule.d_use == "rnn":
        drive, states["d"] = lstm(theta["d"], memory, states["d"])
        delta = rule.damping_scale * softplus(drive) + damping

    def A(v):
        return v @ G + delta * v

    if rule.x_use == "rnn":
        x0, states["x"] = lstm(theta["x"], memory, states["x"])
    else:
        x0 = {"x": x_before, "d": g}[rule.x_use]
    r0 = g - A(x0)
    P = np.ones(SIZE)
    if rule.y_use == "rnn":
        at = None if record is None else (g, record["start_residual"], record["start"])
        drive, states["y"] = lstm(theta["y"], scaled(rule, (g, r0, x0), at), states["y"])
        P = softplus(drive)
    x, r, used = conjugate_gradient(A, r0, x0, P, rule.cg_iterations)
    return {
        "delta": delta,
        "start": x0,
        "start_residual": r0,
        "diagonal": P,
        "x": x,
        "r": r,
        "Ax": A(x),
        "iterations": used,
        "states": states,
    }


def limited(x, w, rate):
    """x, no longer than a quarter of w over the learning rate."""
    norm = np.sqrt(dot(x, x))
    limit = 0.25 * np.sqrt(w @ w) / rate
    return x * np.where(norm.real > limit, limit / norm, 1)[..., None]


def h_of(g, found):
    return -dot(g, found["x"]) / np.sqrt(dot(found["x"], found["Ax"]))


def roll(setup, theta, steps):
    """A rollout, live throughout: a list of records, and what is carried on."""
    w, r, x = setup.w, setup.r, setup.x
    states, damping = dict(setup.states), setup.damping
    records = []
    for t in range(steps):
        batch = setup.batches[t]
        g, G = gradient_and_curvature(w, batch, setup.rule.curvature_share)
        found = propose(setup.rule, theta, g, G, r, x, states, damping)
        moved = w - setup.rate * setup.noise[t] * limited(found["x"], w, setup.rate)
        records.append(
            {
                "w": w,
                "g": g,
                "G": G,
                "r_before": r,
                "x_before": x,
                "damping": damping,
                "loss": loss(w, batch),
                "loss_after": loss(moved, batch),
                "h": h_of(g, found),
                "limited": bool(np.linalg.norm(found["x"]) * setup.rate > np.linalg.norm(w) / 4),
                **found,
            }
        )
        if setup.rule.damping_type == "LM_heuristics":
            # Without the noise, whose mean is one.
            step = setup.rate * limited(found["x"], w, setup.rate)
            damping = adapted(
                damping,
                data_loss(w, batch),
                data_loss(moved, batch),
                g,
                step,
                G @ step + found["delta"] * step,
                setup.rule.decay,
            )
        w, r, x, states = moved, found["r"], found["x"], found["states"]
    return records, (w, r, x, states, damping)


def adapted(damping, before, after, g, step, product, decay):
    """The heuristic of Levenberg and Marquardt for a step s taken, and A s."""
    q = -dot(g, step) + dot(step, product) / 2
    rounding = 16 * np.finfo(float).eps * abs(before)
    ratio = (after - before) / q if abs(q) > rounding else 0.5
    if ratio <= 0.25:
        damping = damping / decay
    elif ratio > 0.75:
        damping = damping * decay
    return min(max(damping, 1e-3), 1.0)


def gains(losses, losses_after, following):
    return (losses_after + following) / 2 - losses


def true_losses(setup, theta, steps, shares):
    """Both meta losses of a rollout in which nothing is held constant but the softmax."""
    records, _ = roll(setup, theta, steps)
    column = {key: np.array([record[key] for record in records]) for key in ("loss", "loss_after")}
    m = gains(column["loss"][:-1], column["loss_after"][:-1], column["loss"][1:])
    return np.mean([record["h"] for record in records]), shares @ m


def shares_of(records):
    """The softmax of m, constant."""
    losses = np.array([record["loss"] for record in records])
    after = np.array([record["loss_after"] for record in records])
    m = gains(losses[:-1], after[:-1], losses[1:])
    e = np.exp(m - m.max()) if len(m) else m
    return e / e.sum(), m


def surrogate(setup, theta, records, shares):
    """Both meta losses where the design's constants are: theta has any leading axes.

    Of the records only what is constant is read: w_t, g_t, G_t, r₋, x₋ and L_t.
    """
    states = dict(setup.states)
    h, meta = 0, 0
    for t, record in enumerate(records):
        w, g = record["w"], record["g"]
        found = propose(
            setup.rule,
            theta,
            g,
            record["G"],
            record["r_before"],
            record["x_before"],
            states,
            record["damping"],
            record,
        )
        states = found["states"]
        h = h + h_of(g, found) / len(records)
        if t + 1 < len(records):
            moved = w - setup.rate * setup.noise[t] * limited(found["x"], w, setup.rate)
            now, following = loss(moved, setup.batches[t]), loss(moved, setup.batches[t + 1])
            meta = meta + shares[t] * ((now + following) / 2 - record["loss"])
    return h, np.zeros_like(h) + meta


# Weights of LSTMs as dictionaries of arrays, and directions in them.


def random_theta(roles, seed, spread=0.3):
    """Weights by role, none of them zero."""
    random = np.random.default_rng(seed)
    return {
        role: {
            name: np.asarray(value) + spread * random.normal(size=value.shape)
            for name, value in initial_weights(len(KINDS), seed + i, tf.float64)._asdict().items()
        }
        for i, role in enumerate(roles)
    }


def as_vector(theta):
    return np.concatenate([value.reshape(-1) for own in theta.values() for value in own.values()])


def moved_along(theta, directions, epsilon):
    """theta + ε · directions, for directions [..., as many as there are weights]."""
    moved, start = {}, 0
    for role, own in theta.items():
        moved[role] = {}
        for name, value in own.items():
            piece = directions[..., start : start + value.size]
            start += value.size
            shape = (*directions.shape[:-1], *value.shape)
            moved[role][name] = value + epsilon * piece.reshape(shape)
    return moved


def complex_derivatives(setup, theta, records, shares, directions, chunk=400):
    """The derivatives of both losses of the surrogate along directions [n, weights]: [2, n]."""
    parts = []
    for start in range(0, len(directions), chunk):
        moved = moved_along(theta, directions[start : start + chunk], 1j * STEP)
        h, meta = surrogate(setup, moved, records, shares)
        parts.append(np.stack([h.imag, meta.imag]) / STEP)
    return np.concatenate(parts, 1)


# The same for TensorFlow.


@dataclasses.dataclass
class Setup:
    """A rule, a start in the middle of training, batches and noise, for both implementations."""

    rule: Any
    w: np.ndarray
    r: np.ndarray
    x: np.ndarray
    states: dict[str, np.ndarray]
    damping: float
    rate: float
    batches: list[tuple[np.ndarray, np.ndarray]]
    noise: list[np.ndarray]
    optimizer: Any
    layout: Any

    @classmethod
    def make(cls, seed=0, steps=3, rate=0.5, damping=2e-5, **rule):
        """Draws one; `rule` are arguments of `MetaHessianFree`."""
        random = np.random.default_rng(seed)
        optimizer = mlhf.MetaHessianFree(rate, damping=damping, **rule)
        w = 0.7 * random.normal(size=SIZE)
        optimizer.init(structure(w))
        batches = [
            (random.normal(size=(BATCH, 3, 3, 1)), random.integers(0, CLASSES, BATCH))
            for _ in range(steps)
        ]
        return cls(
            rule=optimizer.rule,
            w=w,
            r=0.1 * random.normal(size=SIZE),
            x=0.1 * random.normal(size=SIZE),
            states={role: 0.3 * random.normal(size=(SIZE, 16)) for role in ROLES},
            damping=damping,
            rate=rate,
            batches=batches,
            noise=[np.ones(SIZE)] * steps,
            optimizer=optimizer,
            layout=optimizer.layout(structure(w)),
        )

    @property
    def regularizer(self):
        return mlhf.L2(DECAY)

    def objective(self, t):
        """The objective of a batch."""
        images, labels = self.batches[t]
        return mlhf.Objective(
            network, "softmax_cross_entropy", images, labels, regularizer=self.regularizer
        )

    def stacked_batches(self, dtype=tf.float64):
        """All batches with a leading axis for time."""
        images = np.stack([images for images, _ in self.batches])
        return tf.constant(images, dtype), tf.constant(np.stack([y for _, y in self.batches]))

    def to_layout(self, vector):
        """A vector in the layout's order and with its padding."""
        return self.layout.flatten(structure(vector))

    def from_layout(self, vector):
        """The other way round."""
        return flat(self.layout.unflatten(vector))

    def state(self):
        """The start as a `MetaState`."""
        lstm = {
            role: (
                tf.stack(
                    [
                        self.layout.to_blocks(self.to_layout(self.states[role][:, i]))
                        for i in range(16)
                    ],
                    1,
                ),
            )
            for role in self.rule.roles
        }
        return MetaState(
            self.to_layout(self.x),
            self.to_layout(self.r),
            tf.constant(self.damping, tf.float64),
            lstm,
        )

    def lstm_state(self, state, role):
        """An LSTM's state as an array [P, 16]."""
        (blocks,) = state.lstm[role]
        return np.stack([self.from_layout(tf.reshape(blocks[:, i], [-1])) for i in range(16)], 1)

    def carry(self):
        """The start as a `Carry`."""
        return Carry(self.to_layout(self.w), (), self.state())


def as_tensors(theta, dtype=tf.float64):
    """Weights as `mlhf` takes them."""
    return {
        role: LSTMWeights(**{name: tf.constant(value, dtype) for name, value in own.items()})
        for role, own in theta.items()
    }


def as_arrays(weights):
    """Weights or their gradients as dictionaries of arrays."""
    return {
        role: {name: value.numpy() for name, value in own._asdict().items()}
        for role, own in weights.items()
    }
