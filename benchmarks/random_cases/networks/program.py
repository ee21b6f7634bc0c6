"""Draws a network from an integer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.random_cases.networks import control, tools
from benchmarks.random_cases.networks.builder import Builder, Ref

XLA = 4  # networks whose seeds are 4 modulo 16 are made for XLA
LOSSES = ("softmax_cross_entropy", "squared_error", "mean_squared_error", "sigmoid_cross_entropy")
# Programs whose structure of parameters is what users have: a dictionary, in one or in a list.
FORMS = ("dict", "list", "nested")


@dataclasses.dataclass
class Program:
    """A network with its point, loss and data.

    Attributes:
      text: Python: a function `network` of a dictionary of parameters.
      parameters: The point, float64 arrays by name.
      form: The structure of the parameters; one of `FORMS`.
      stops: The values of `stop_gradient` at the point.
      loss: A loss's name.
      targets: The targets of the loss.
      weights: The weights of the examples, or None.
      single: Whether it has parts in float32.
      features: The types of operation and controls that it contains.
      origin: The way to draw it again.
    """

    text: str
    parameters: dict[str, np.ndarray]
    form: str
    stops: tools.Stops
    loss: str
    targets: np.ndarray
    weights: np.ndarray | None
    single: bool
    features: list[str]
    origin: str = ""

    def network(self) -> Callable[[Any], tf.Tensor]:
        """Returns the network as a function of the structure `structure` returns."""
        names = tools.scope(self.stops)
        exec(self.text, names)

        def network(leaves: Any) -> tf.Tensor:
            return names["network"](
                dict(zip(self.parameters, tf.nest.flatten(leaves), strict=True))
            )

        return network

    def structure(self, flat: Any) -> Any:
        """Returns a flat vector as the parameters' structure."""
        flat, leaves, first = tf.convert_to_tensor(flat), [], 0
        for values in self.parameters.values():
            leaves.append(tf.reshape(flat[first : first + values.size], values.shape))
            first += values.size
        if self.form == "list":
            return leaves
        if self.form == "nested":
            return [{"first": leaves[0]}, tuple(leaves[1:])]
        return dict(zip(self.parameters, leaves, strict=True))

    def point(self) -> np.ndarray:
        """Returns the parameters as one vector."""
        return np.concatenate([values.reshape(-1) for values in self.parameters.values()])

    def __str__(self) -> str:
        lines = [f"# {self.origin}"] if self.origin else []
        lines += [f"{name} = np.array({v.tolist()})" for name, v in self.parameters.items()]
        lines += [self.text, f"loss = {self.loss!r}, targets = {self.targets.tolist()}"]
        if self.weights is not None:
            lines.append(f"weights = {self.weights.tolist()}")
        return "\n".join([*lines, f"parameters as a {self.form}"])


def generate(seed: int, attempt: int = 0) -> Program:
    """Draws a network.

    Args:
      seed: Which one.
      attempt: Which of its variants.

    Returns:
      The program; the same for the same numbers.
    """
    b = Builder(np.random.default_rng([seed, attempt]), compiled=seed % 16 == XLA)
    features: list[str] = []
    depth = int(b.random.integers(3, 7))
    value: Ref | None = None
    for level in range(depth):
        if value is not None and level > 0 and b.chance(0.2):
            value = b.draw(b.visible)
        if value is not None and b.chance(0.25):
            name = b.draw(sorted(control.CONTROLS))
            features.append(name)
            value = control.around(b, value, 1, name)
        else:
            value = b.apply(control.template(b), value)
    assert value is not None
    made = finish(b, value, features)
    made.origin = f"program.generate({seed}, attempt={attempt})"
    return made


def finish(b: Builder, value: Ref, features: list[str]) -> Program:
    """Adds the loss and all that nothing has read yet.

    Args:
      b: The program.
      value: Its last tensor.
      features: The controls in it.

    Returns:
      The network.
    """
    open_ends = [ref for ref in b.visible if not ref.read and ref is not value]
    raw = value.value.ndim >= 1 and value.value.size <= 12 and b.chance(0.3) and not open_ends
    if raw:
        result, loss = value, b.draw(LOSSES[1:])
    else:
        result = b.fit(value, (2, 3))
        for ref in open_ends:
            result = b.let("{0} + {1}", result, b.fit(ref, (2, 3)))
        loss = b.draw(LOSSES)
    shape = result.shape
    if loss == "softmax_cross_entropy":
        targets = b.random.integers(3, size=2)
        if b.chance(0.4):
            targets = np.round(b.random.dirichlet(np.ones(3), 2), 2)
    elif loss == "sigmoid_cross_entropy":
        targets = np.round(b.random.uniform(size=shape), 2)
    else:
        targets = np.round(b.random.normal(size=shape), 2)
    weights = np.round(b.random.uniform(0.3, 2.0, shape[0]), 2) if b.chance(0.25) else None
    names = sorted({op for template in b.templates for op in template.ops} | set(features))
    single = any(template.single for template in b.templates)
    form = b.draw(FORMS)
    return Program(
        b.text(result), b.parameters, form, b.stops, loss, targets, weights, single, names
    )
