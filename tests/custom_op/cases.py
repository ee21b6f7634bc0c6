"""Small networks, each in TensorFlow and, independently, in NumPy.

The NumPy version takes complex parameters and is analytic along them: its Jacobian comes by the
complex step (Squire and Trapp 1998), exact to rounding and without any of TensorFlow's gradients.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BATCH = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, a loss and data.

    Attributes:
      name: What the test is called.
      network: From a structure of tensors to outputs.
      reference: The same in NumPy, from the flat list of (complex) arrays.
      parameters: The point, a structure of float64 arrays.
      loss: The loss's name.
      targets: What the loss compares with.
    """

    name: str
    network: Callable[[Any], tf.Tensor]
    reference: Callable[[list[np.ndarray]], np.ndarray]
    parameters: Any
    loss: str
    targets: np.ndarray

    def tensors(self) -> Any:
        return tf.nest.map_structure(tf.constant, self.parameters)

    def random(self, seed: int) -> Any:
        random = np.random.default_rng(seed)
        return tf.nest.map_structure(
            lambda leaf: tf.constant(random.normal(size=leaf.shape)), self.parameters
        )


def flat(structure: Any) -> np.ndarray:
    """A structure as one vector."""
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in tf.nest.flatten(structure)])


@functools.cache
def outputs(name: str) -> np.ndarray:
    case = CASES[name]
    return case.reference(tf.nest.flatten(case.parameters)).real


@functools.cache
def jacobian(name: str) -> np.ndarray:
    """The [outputs, parameters] Jacobian by complex steps."""
    return _jacobian_at(name, tf.nest.flatten(CASES[name].parameters))


def _jacobian_at(name: str, leaves: list[np.ndarray]) -> np.ndarray:
    case = CASES[name]
    columns = []
    for i, leaf in enumerate(leaves):
        for j in range(leaf.size):
            moved = [value.astype(complex) for value in leaves]
            moved[i].reshape(-1)[j] += 1e-30j
            columns.append(case.reference(moved).imag.reshape(-1) / 1e-30)
    return np.stack(columns, axis=1)


@functools.cache
def loss_hessian(name: str) -> np.ndarray:
    """The dense Hessian of the loss in the outputs, from its closed form, block by block."""
    case, z = CASES[name], outputs(name)
    if case.loss == "squared_error":
        return np.eye(z.size) / z.shape[0]
    if case.loss == "mean_squared_error":
        return 2 * np.eye(z.size) / z.size
    if case.loss == "sigmoid_cross_entropy":
        p = 1 / (1 + np.exp(-z.reshape(-1)))
        return np.diag(p * (1 - p)) / z.size
    assert case.loss == "softmax_cross_entropy"
    classes = z.shape[-1]
    rows = z.reshape(-1, classes)
    soft = case.targets.dtype.kind == "f"
    mass = case.targets.reshape(-1, classes).sum(-1) if soft else np.ones(len(rows))
    dense = np.zeros((z.size, z.size))
    for i, (row, weight) in enumerate(zip(rows, mass, strict=True)):
        s = softmax(row)
        block = slice(i * classes, (i + 1) * classes)
        dense[block, block] = weight * (np.diag(s) - np.outer(s, s)) / len(rows)
    return dense


# Weights and a mask over the examples, for the cases with both.
WEIGHTS = np.array([0.5, 2.0, 1.3])
MASK = np.array([True, False, True])


def shares(name: str, weighted: bool) -> np.ndarray:
    """How much each output counts, relative to the plain mean."""
    z = outputs(name)
    share = WEIGHTS * MASK * BATCH / MASK.sum() if weighted else np.ones(BATCH)
    return np.broadcast_to(share.reshape(-1, *[1] * (z.ndim - 1)), z.shape).reshape(-1)


def gauss_newton(name: str, weighted: bool = False) -> np.ndarray:
    j = jacobian(name)
    return j.T @ (shares(name, weighted)[:, None] * loss_hessian(name)) @ j


def _targets(name: str) -> np.ndarray:
    """The targets in the shape of the outputs."""
    case, z = CASES[name], outputs(name)
    return case.targets if case.targets.shape == z.shape else np.eye(z.shape[-1])[case.targets]


def output_gradient(name: str, y: np.ndarray | None = None) -> np.ndarray:
    """The gradient of the mean loss in the outputs, flat, at the case's targets or others."""
    case, z = CASES[name], outputs(name)
    y = _targets(name) if y is None else y
    if case.loss == "squared_error":
        return (z - y).reshape(-1) / z.shape[0]
    if case.loss == "mean_squared_error":
        return 2 * (z - y).reshape(-1) / z.size
    if case.loss == "sigmoid_cross_entropy":
        return (sigmoid(z) - y).reshape(-1) / z.size
    assert case.loss == "softmax_cross_entropy"
    rows = z.size // z.shape[-1]
    return (y.sum(-1, keepdims=True) * softmax(z) - y).reshape(-1) / rows


def gradient(name: str, weighted: bool = False) -> np.ndarray:
    return jacobian(name).T @ (shares(name, weighted) * output_gradient(name))


def empirical_fisher(name: str, weighted: bool = False) -> np.ndarray:
    """The mean over examples of g gᵀ, an example at a time."""
    slope = shares(name, weighted) * output_gradient(name)
    examples = MASK.sum() if weighted else BATCH
    dense = 0
    for one in np.split(np.arange(slope.size), BATCH):
        g = examples * jacobian(name)[one].T @ slope[one]
        dense = dense + np.outer(g, g) / examples
    return dense


def hessian(name: str, weighted: bool = False) -> np.ndarray:
    """The dense Hessian, a column at a time."""
    size = jacobian(name).shape[1]
    columns = [hessian_product(name, unit, weighted) for unit in np.eye(size)]
    return np.stack(columns, axis=1)


def hessian_product(name: str, v: np.ndarray, weighted: bool = False) -> np.ndarray:
    """H v: JᵀH_ℓJ v plus the outputs' own curvature, the slope of a complex-step Jacobian."""
    slope = shares(name, weighted) * output_gradient(name)
    step, leaves = 2e-4 / np.max(np.abs(v)), tf.nest.flatten(CASES[name].parameters)
    cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = [part.reshape(leaf.shape) for part, leaf in zip(np.split(v, cuts), leaves, strict=True)]

    def moved(factor):
        return [leaf + factor * step * part for leaf, part in zip(leaves, parts, strict=True)]

    # Differences of fourth order.
    differences = 8 * (_jacobian_at(name, moved(1)) - _jacobian_at(name, moved(-1)))
    differences -= _jacobian_at(name, moved(2)) - _jacobian_at(name, moved(-2))
    return gauss_newton(name, weighted) @ v + differences.T @ slope / (12 * step)


def softmax(z):
    e = np.exp(z - z.real.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def relu(z):
    return np.where(z.real > 0, z, 0)


def _convolve(x, kernel):
    """Stride 1, padding SAME, odd kernel."""
    k = kernel.shape[0] // 2
    padded = np.pad(x, [(0, 0), (k, k), (k, k), (0, 0)])
    height, width = x.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def _pool(x, size, stride=2):
    """Maximum by the real part; a window may hang over the right and lower edge (SAME)."""
    rows = []
    for i in range(0, x.shape[1], stride):
        row = []
        for j in range(0, x.shape[2], stride):
            window = x[:, i : i + size, j : j + size].reshape(len(x), -1, x.shape[3])
            best = window.real.argmax(1)[:, None]
            row.append(np.take_along_axis(window, best, 1)[:, 0])
        rows.append(np.stack(row, 1))
    return np.stack(rows, 1)


_random = np.random.default_rng(20240517)


def _normal(*shape):
    return _random.normal(size=shape)


_x = _normal(BATCH, 4)
_images = _normal(BATCH, 4, 4, 2)
_sequences = _normal(BATCH, 2, 4)
_classes = np.array([0, 2, 1])
_labels = _random.uniform(size=(BATCH, 3))


def _mlp(name, activation, reference, loss, targets):
    parameters = {"w1": _normal(4, 3), "b1": _normal(3), "w2": _normal(3, 3), "b2": _normal(3)}

    def network(p):
        return activation(_x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]

    def in_numpy(leaves):
        b1, b2, w1, w2 = leaves
        return reference(_x @ w1 + b1) @ w2 + b2

    return Case(name, network, in_numpy, parameters, loss, targets)


def _convnet(name, size, stride, loss, targets):
    """Stride 1 has as many windows as pixels; every second one is read."""
    parameters = (_normal(3, 3, 2, 3), {"bias": _normal(3), "dense": _normal(12, 3)})
    step = 2 // stride

    def network(p):
        kernel, rest = p
        h = tf.nn.conv2d(_images, kernel, 1, "SAME")
        h = tf.nn.relu(tf.nn.bias_add(h, rest["bias"]))
        h = tf.nn.max_pool2d(h, size, stride, "SAME")[:, ::step, ::step]
        return tf.reshape(h, [BATCH, -1]) @ rest["dense"]

    def in_numpy(leaves):
        kernel, bias, dense = leaves
        h = relu(_convolve(_images, kernel) + bias)
        if stride == 1:
            h = np.pad(h, [(0, 0), (size // 2, 0), (size // 2, 0), (0, 0)], constant_values=-np.inf)
        h = _pool(h, size, stride)[:, : 4 // stride : step, : 4 // stride : step]
        return h.reshape(BATCH, -1) @ dense

    return Case(name, network, in_numpy, parameters, loss, targets)


def _gates():
    """A softmax inside, a quotient, concat, split, gather, einsum, and a mean."""
    parameters = [_normal(4, 4), _normal(4, 4)]
    chosen = [1, 3, 3]

    def network(p):
        left, right = tf.split(_x @ p[0], 2, axis=1)
        gates = tf.nn.softmax(tf.concat([right, left], 1))
        mixed = tf.einsum("bi,ij->bj", gates, p[1]) / (1 + tf.square(p[0][0]))
        return tf.gather(mixed - tf.reduce_mean(mixed, 1, keepdims=True), chosen, axis=1)

    def in_numpy(leaves):
        a, c = leaves
        h = _x @ a
        mixed = softmax(np.concatenate([h[:, 2:], h[:, :2]], 1)) @ c / (1 + a[0] ** 2)
        return (mixed - mixed.mean(1, keepdims=True))[:, chosen]

    return Case("gates", network, in_numpy, parameters, "softmax_cross_entropy", _labels)


@tf.custom_gradient
def tripled_sine(x):
    """sin(x), with three times its derivative: what TensorFlow uses has to be followed."""
    return tf.sin(x), lambda upstream: 3 * tf.cos(x) * upstream


def _custom():
    def in_numpy(leaves):
        h = _x @ leaves[0]
        return np.sin(h.real) + 3j * np.cos(h.real) * h.imag

    return Case(
        "custom_gradient",
        lambda p: tripled_sine(_x @ p),
        in_numpy,
        _normal(4, 3),
        "mean_squared_error",
        _labels,
    )


def _sequence():
    parameters = {"in": _normal(4, 3), "out": _normal(3, 3)}
    return Case(
        "rank_3",
        lambda p: tf.tanh(_sequences @ p["in"]) @ p["out"],
        lambda leaves: np.tanh(_sequences @ leaves[0]) @ leaves[1],
        parameters,
        "softmax_cross_entropy",
        np.array([[0, 1], [2, 2], [1, 0]]),
    )


def _keras():
    model = keras.Sequential(
        [
            keras.layers.Dense(3, activation="tanh", dtype="float64"),
            keras.layers.Dense(3, dtype="float64"),
        ]
    )
    model.build((BATCH, 4))
    parameters = [_normal(*variable.shape) for variable in model.trainable_variables]

    def network(p):
        return model.stateless_call(p, [v.value for v in model.non_trainable_variables], _x)[0]

    def in_numpy(leaves):
        w1, b1, w2, b2 = leaves
        return np.tanh(_x @ w1 + b1) @ w2 + b2

    return Case("keras", network, in_numpy, parameters, "softmax_cross_entropy", _classes)


CASES = {
    case.name: case
    for case in (
        _mlp("mlp_sigmoid", tf.sigmoid, sigmoid, "softmax_cross_entropy", _classes),
        _mlp("mlp_tanh", tf.tanh, np.tanh, "squared_error", _labels),
        _mlp("mlp_relu", tf.nn.relu, relu, "sigmoid_cross_entropy", _labels),
        _mlp("silu", tf.nn.silu, lambda z: z * sigmoid(z), "mean_squared_error", _labels),
        _convnet("convnet", 2, 2, "softmax_cross_entropy", _classes),
        _convnet("convnet_overlapping", 3, 1, "squared_error", _labels),
        _gates(),
        _custom(),
        _sequence(),
        _keras(),
    )
}
