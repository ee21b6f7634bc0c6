"""Recurrent networks of tanh units on problems whose answer lies far back (Martens and Sutskever).

The problems are Hochreiter and Schmidhuber's (1997), as "Learning Recurrent Neural Networks with
Hessian-Free Optimization" (ICML 2011) trains them: sequences of T steps, of which one or two decide
the answer after the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_count
from train_val.problems.array_problem import ArrayTask

# The paper's sparse initialization: incoming connections per unit, and the spectral radius.
_CONNECTIONS, _RADIUS = 15, 1.1
_SYMBOLS = 100


def recurrent_network(parameters: Any, inputs: tf.Tensor) -> tf.Tensor:
    """Returns what a network of tanh units says after the last step.

    Args:
      parameters: `dense_input`, `dense_recurrent` and `dense_output`, each with a kernel; the last
        two with a bias.
      inputs: The sequences, [B, T, d]; T is static.

    Returns:
      The outputs, [B, n].
    """
    driven = inputs @ parameters["dense_input"]["kernel"] + parameters["dense_recurrent"]["bias"]
    steps = tf.transpose(driven, [1, 0, 2])
    kernel = parameters["dense_recurrent"]["kernel"]

    def step(t: tf.Tensor, hidden: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return t + 1, tf.tanh(steps[t] + hidden @ kernel)

    length = inputs.shape[1]
    _, hidden = tf.while_loop(
        lambda t, _: t < length,
        step,
        (tf.constant(0), tf.zeros_like(steps[0])),
        maximum_iterations=length,
    )
    return hidden @ parameters["dense_output"]["kernel"] + parameters["dense_output"]["bias"]


def _initial(inputs: int, units: int, outputs: int) -> Callable[[int], Any]:
    def initialize(seed: int) -> dict[str, dict[str, tf.Tensor]]:
        random = np.random.default_rng(seed)
        kernel = np.zeros((units, units))
        for unit in range(units):
            chosen = random.choice(units, min(_CONNECTIONS, units), replace=False)
            kernel[chosen, unit] = random.normal(size=len(chosen))
        kernel *= _RADIUS / np.abs(np.linalg.eigvals(kernel)).max()
        values = {
            "dense_input": {"kernel": 0.1 * random.normal(size=(inputs, units))},
            "dense_recurrent": {"kernel": kernel, "bias": np.zeros(units)},
            "dense_output": {
                "kernel": random.normal(size=(units, outputs)) / np.sqrt(units),
                "bias": np.zeros(outputs),
            },
        }
        return tf.nest.map_structure(lambda value: tf.constant(value, tf.float32), values)

    return initialize


def _task(
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]],
    loss: str,
    outputs: int,
    units: int,
    examples: int,
) -> ArrayTask:
    """Returns the task on `examples` sequences to train on and a tenth of them to test on."""
    check_count("units", units)
    check_count("examples", examples)
    train = draw(np.random.default_rng(0), examples)
    test = draw(np.random.default_rng(1), max(100, examples // 10))
    initialize = _initial(train[0].shape[-1], units, outputs)
    return ArrayTask(train, test, loss, network=recurrent_network, initialize=initialize)


def _marked(random: np.random.Generator, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Marks two steps of each sequence.

    The first mark is in the first tenth, the second one between it and the middle.

    Args:
      random: The generator.
      values: The sequences, [N, T].

    Returns:
      Values and marks, [N, T, 2], and the marked values, [N, 2].

    Raises:
      ValueError: If there are fewer than 10 steps.
    """
    count, length = values.shape
    if length < 10:
        raise ValueError(f"Expected sequences of at least 10 steps, got {length}.")
    early = random.integers(0, length // 10, count)
    late = random.integers(length // 10, length // 2, count)
    marks = np.zeros_like(values)
    rows = np.arange(count)
    marks[rows, early] = marks[rows, late] = 1
    inputs = np.stack([values, marks], 2)
    return inputs, np.stack([values[rows, early], values[rows, late]], 1)


def addition(length: int = 50, units: int = 100, examples: int = 10_000) -> ArrayTask:
    """Returns the addition problem: the sum of two marked numbers from 0 to 1."""

    def draw(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        inputs, chosen = _marked(random, random.uniform(size=(count, length)))
        return inputs, chosen.sum(1, keepdims=True)

    return _task(draw, "squared_error", 1, units, examples)


def xor(length: int = 50, units: int = 100, examples: int = 10_000) -> ArrayTask:
    """Returns the XOR problem: whether two marked bits differ."""

    def draw(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        bits = random.integers(0, 2, (count, length)).astype(np.float64)
        inputs, chosen = _marked(random, bits)
        return inputs, (chosen[:, 0] != chosen[:, 1]).astype(np.int32)

    return _task(draw, "softmax_cross_entropy", 2, units, examples)


def permutation(length: int = 50, units: int = 100, examples: int = 5_000) -> ArrayTask:
    """Returns the random permutation problem: which of two symbols came first.

    The symbols between are drawn from the other 98 of 100, each as a unit vector.
    """

    def draw(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        symbols = random.integers(2, _SYMBOLS, (count, length))
        symbols[:, 0] = random.integers(0, 2, count)
        return np.eye(_SYMBOLS, dtype=np.float32)[symbols], symbols[:, 0].astype(np.int32)

    return _task(draw, "softmax_cross_entropy", 2, units, examples)
