"""The L2 penalties that a model's layers ask for, as a regularizer with derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from custom_op import structures
from mlhf.objective import L2, Regularizer

Structure = Any


def of_layers(model: Any, names: Sequence[str]) -> tuple[Regularizer | None, int]:
    """Returns the penalties on a model's trainable variables (`kernel_regularizer` and the like).

    Args:
      model: A built `keras.Model`.
      names: The names of its trainable variables, in their order.

    Returns:
      The regularizer, None for none, and the number of variables that have one.

    Raises:
      ValueError: If one is another than `keras.regularizers.L2`.
    """
    import keras

    coefficients = {}
    for variable, name in zip(model.trainable_variables, names, strict=True):
        regularizer = getattr(variable, "regularizer", None)
        if regularizer is None:
            continue
        l2 = float(getattr(regularizer, "l2", 0.0))
        kinds = (keras.regularizers.L2, keras.regularizers.L1L2)
        if type(regularizer) not in kinds or float(getattr(regularizer, "l1", 0.0)):
            raise ValueError(
                f"Expected keras.regularizers.L2 on variables, got "
                f"{type(regularizer).__name__} on {variable.path!r}, whose curvature is not known "
                "here: give it as mlhf.keras.compile(regularizer=...), an object with the methods "
                "of mlhf.L2, and take it out of the layer."
            )
        # Keras' penalty is l2 Σ w²; ours c/2 Σ w².
        coefficients[name] = 2 * l2
    if not coefficients:
        return None, 0
    if len(set(coefficients.values())) == 1:
        rest = [name for name in names if name not in coefficients]
        return L2(next(iter(coefficients.values())), rest), len(coefficients)
    return L2ByName(coefficients), len(coefficients)


def both(first: Regularizer | None, second: Regularizer | None) -> Regularizer | None:
    """Returns the sum of two regularizers, of which each may be None."""
    if first is None or second is None:
        return second if first is None else first
    return _Sum(first, second)


class L2ByName:
    """Σ cₖ/2 ‖wₖ‖² with a coefficient for each parameter.

    Attributes:
      coefficients: The coefficients by name; parameters without one have no penalty.
    """

    def __init__(self, coefficients: Mapping[str, float]) -> None:
        """Takes the coefficients."""
        self.coefficients = dict(coefficients)

    def value(self, parameters: Structure) -> tf.Tensor:
        """Returns the penalty."""
        return tf.add_n(
            [
                0.5 * self.coefficients[name] * tf.reduce_sum(tf.square(leaf))
                for name, leaf in self._named(parameters)
                if name in self.coefficients
            ]
        )

    def gradient(self, parameters: Structure) -> Structure:
        """Returns cₖ wₖ."""
        return self.hessian_product(parameters, parameters)

    def hessian_product(self, parameters: Structure, vector: Structure) -> Structure:
        """Returns cₖ vₖ."""
        del parameters
        scaled = [self.coefficients.get(name, 0.0) * leaf for name, leaf in self._named(vector)]
        return tf.nest.pack_sequence_as(vector, scaled)

    def _named(self, structure: Structure) -> list[tuple[str, tf.Tensor]]:
        names = structures.leaf_names(structure)
        return list(zip(names, tf.nest.flatten(structure), strict=True))


class _Sum:
    """The sum of two regularizers."""

    def __init__(self, first: Regularizer, second: Regularizer) -> None:
        self._parts = first, second

    def value(self, parameters: Structure) -> tf.Tensor:
        """Returns the sum."""
        return tf.add_n([part.value(parameters) for part in self._parts])

    def gradient(self, parameters: Structure) -> Structure:
        """Returns the sum of the gradients."""
        return tf.nest.map_structure(tf.add, *[part.gradient(parameters) for part in self._parts])

    def hessian_product(self, parameters: Structure, vector: Structure) -> Structure:
        """Returns the sum of the products."""
        return tf.nest.map_structure(
            tf.add, *[part.hessian_product(parameters, vector) for part in self._parts]
        )
