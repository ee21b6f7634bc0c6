"""Compares a drawn model with Keras' own training step and with dense matrices."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import custom_op
import mlhf
from benchmarks.random_cases.keras_models.models import Case

RATE = 0.3


def check(case: Case, mode: str) -> None:
    """Compares one mode.

    Args:
      case: The drawn model, which is left as it was.
      mode: `"step"`: loss, weights and state after a step of SGD; `"graph"`, `"eager"` or `"xla"`:
        products with J and G.

    Raises:
      AssertionError: If they differ.
    """
    if mode == "step":
        _step(case)
    else:
        _products(case, mode)


def _step(case: Case) -> None:
    model = case.model
    before, state_before = mlhf.get_parameters(model), mlhf.get_model_state(model)
    optimizer = mlhf.FirstOrder(keras.optimizers.SGD(RATE))
    objective = mlhf.Objective(model, case.loss, case.inputs, case.targets)
    # A weight without influence has no derivative, which Keras passes over with a warning.
    step = optimizer.step(objective, before, optimizer.init(model))
    model.compile(keras.optimizers.SGD(RATE), case.keras_loss, run_eagerly=True)
    # As a data set hands batches on: `fit` casts arrays to floatx, which is float64 here.
    value = model.train_on_batch(case.inputs, case.targets)
    close(step.metrics["loss"], value, "loss")
    for path, expected in mlhf.get_parameters(model).items():
        close(step.parameters[path], expected, path)
    moved = mlhf.get_model_state(model) or {}
    assert set(moved) == set(step.model_state or {}), "state"
    for path, expected in moved.items():
        close(step.model_state[path], expected, path)
    mlhf.set_parameters(model, before)
    mlhf.set_model_state(model, state_before)


def _products(case: Case, mode: str) -> None:
    parameters = mlhf.get_parameters(case.model)
    objective = mlhf.Objective(case.model, case.loss, case.inputs, case.targets)
    random = np.random.default_rng(0)
    v = {path: tf.constant(random.normal(size=w.shape)) for path, w in parameters.items()}

    def compute(
        parameters: dict[str, tf.Tensor], v: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, Any, Any]:
        linearized = objective.linearize(parameters)
        tangents = custom_op.jvp(lambda p: objective.outputs(p)[0], parameters, v)
        tangents = tangents[1] if isinstance(tangents, tuple) else tangents
        return tangents, linearized.curvature_product(v), linearized.gradient()

    if mode != "eager":
        compute = tf.function(compute, autograph=False, jit_compile=mode == "xla")
    tangents, product, gradient = compute(parameters, v)
    J, H, g = dense(objective, parameters)
    flat = np.concatenate([v[path].numpy().ravel() for path in sorted(v)])
    close(np.ravel(tangents), J @ flat, "J v")
    close(_flat(product), J.T @ (H @ (J @ flat)), "G v")
    close(_flat(gradient), J.T @ g, "gradient")


def dense(objective: Any, parameters: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns J [N, P] by TensorFlow's own derivatives, and the loss's H [N, N] and gradient."""
    paths = sorted(parameters)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(parameters)
        outputs = objective.outputs(parameters)[0]
        parts = tf.unstack(tf.reshape(outputs, [-1]))
    rows = []
    for part in parts:
        found = tape.gradient(
            part, [parameters[path] for path in paths],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )  # fmt: skip
        rows.append(np.concatenate([np.ravel(tf.convert_to_tensor(leaf)) for leaf in found]))
    z = outputs.numpy()
    return np.stack(rows), _hessian(objective, z), _gradient(objective, z)


def _hessian(objective: Any, z: np.ndarray) -> np.ndarray:
    """The loss's Hessian in the outputs, written down anew."""
    count = z.size
    if "Softmax" in type(objective.loss).__name__:
        blocks = np.zeros((len(z), z.shape[1], len(z), z.shape[1]))
        for i, p in enumerate(_softmax(z)):
            blocks[i, :, i, :] = (np.diag(p) - np.outer(p, p)) / len(z)
        return blocks.reshape(count, count)
    if "Sigmoid" in type(objective.loss).__name__:
        p = 1 / (1 + np.exp(-z.ravel()))
        return np.diag(p * (1 - p)) / count
    return 2 * np.eye(count) / count


def _gradient(objective: Any, z: np.ndarray) -> np.ndarray:
    y = objective.targets.numpy()
    smoothing = getattr(objective.loss, "smoothing", 0.0)
    if "Softmax" in type(objective.loss).__name__:
        y = y if y.ndim == z.ndim else np.eye(z.shape[1])[y]
        y = (1 - smoothing) * y + smoothing / z.shape[1]
        return ((_softmax(z) - y) / len(z)).ravel()
    if "Sigmoid" in type(objective.loss).__name__:
        return ((1 / (1 + np.exp(-z)) - y) / z.size).ravel()
    return (2 * (z - y) / z.size).ravel()


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _flat(structure: Any) -> np.ndarray:
    return np.concatenate([np.ravel(structure[path]) for path in sorted(structure)])


def close(found: Any, expected: Any, what: str) -> None:
    """Compares in float64, with a bar for what float32 pieces of Keras' losses leave."""
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    scale = max(1.0, float(np.max(np.abs(expected), initial=0)))
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9 * scale, err_msg=what)
