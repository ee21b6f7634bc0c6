"""Penalties on the parameters, with their derivatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, Protocol

import tensorflow as tf

from custom_op import structures
from mlhf.checks import parameter_names
from mlhf.checks.arguments import check_number

Structure = Any


class Regularizer(Protocol):
    """A penalty on the parameters, with its first two derivatives."""

    def value(self, parameters: Structure) -> tf.Tensor:
        """Returns the penalty, a scalar."""

    def gradient(self, parameters: Structure) -> Structure:
        """Returns its gradient."""

    def hessian_product(self, parameters: Structure, vector: Structure) -> Structure:
        """Returns the product of its Hessian with a vector."""


@dataclasses.dataclass(frozen=True)
class L2:
    """Weight decay, c/2 · Σ‖w‖² over the parameters (TensorFlow 1's `l2_loss`).

    Attributes:
      coefficient: c, at least 0.
      excluded: Parameters that do not decay, by their paths (`"norm/gamma"`; a Keras model's are
        its `variable.path`).

    Raises:
      ValueError: If one of them makes no sense.
    """

    coefficient: float
    excluded: Collection[str] = frozenset()

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, at_least=0)
        if isinstance(self.excluded, str):
            raise ValueError(f"Expected excluded= to be a set of paths, got {self.excluded!r}.")
        # Compiled steps are cached by what they depend on, so it has to be hashable.
        object.__setattr__(self, "excluded", frozenset(self.excluded))

    def value(self, parameters: Structure) -> tf.Tensor:
        """Returns c/2 · Σ‖w‖²."""
        squares = [
            tf.reduce_sum(tf.square(leaf))
            for leaf, decays in zip(
                tf.nest.flatten(parameters), self._decaying(parameters), strict=True
            )
            if decays
        ]
        return 0.5 * self.coefficient * tf.add_n(squares)

    def gradient(self, parameters: Structure) -> Structure:
        """Returns c w."""
        return self.hessian_product(parameters, parameters)

    def hessian_product(self, parameters: Structure, vector: Structure) -> Structure:
        """Returns c v."""
        scaled = [
            self.coefficient * leaf if decays else tf.zeros_like(leaf)
            for leaf, decays in zip(
                tf.nest.flatten(vector), self._decaying(parameters), strict=True
            )
        ]
        return tf.nest.pack_sequence_as(vector, scaled)

    def _decaying(self, parameters: Structure) -> list[bool]:
        paths = structures.leaf_names(parameters)
        # Keras changes the paths of a model that it loads.
        excluded = {name: parameter_names.find(name, paths) for name in self.excluded}
        unknown = sorted(name for name, path in excluded.items() if path is None)
        if unknown:
            raise ValueError(
                f"Expected excluded= to name parameters among {paths}, got {unknown} too."
            )
        if set(excluded.values()).issuperset(paths):
            raise ValueError("Expected excluded= to leave parameters that decay, it names all.")
        return [path not in excluded.values() for path in paths]
