"""The outer optimizers, one for each hyperparameter, and their saved states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_keras_optimizer, check_number


class OuterOptimizer:
    """A Keras optimizer for one hyperparameter, whose state can be saved."""

    def __init__(self, optimizer: Any, value: Any):
        """Copies the optimizer, so that its variables belong to this hyperparameter alone."""
        import keras

        if isinstance(optimizer, (int, float)) and not isinstance(optimizer, bool):
            optimizer = keras.optimizers.SGD(check_number("outer_optimizer", optimizer, at_least=0))
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                f"Expected outer_optimizer= to be a Keras optimizer or a rate, got {optimizer!r}."
            )
        check_keras_optimizer("outer_optimizer", optimizer)
        self._optimizer = type(optimizer).from_config(optimizer.get_config())
        self._variables = [tf.Variable(leaf) for leaf in tf.nest.flatten(value)]
        self._optimizer.build(self._variables)

    def __call__(self, value: Any, gradient: Any) -> Any:
        """Returns the hyperparameter after a step."""
        for variable, leaf in zip(self._variables, tf.nest.flatten(value), strict=True):
            variable.assign(leaf)
        self._optimizer.apply(tf.nest.flatten(gradient), self._variables)
        return tf.nest.pack_sequence_as(
            value, [tf.identity(variable) for variable in self._variables]
        )

    def settings(self) -> dict[str, Any]:
        """Returns the optimizer's class and configuration."""
        config = self._optimizer.get_config()
        # Keras may number the names of optimizers.
        config.pop("name", None)
        return {"class": type(self._optimizer).__name__, **config}

    def state(self) -> list[np.ndarray]:
        """Returns the optimizer's variables."""
        return [np.asarray(variable) for variable in self._optimizer.variables]

    def restore(self, state: list[np.ndarray]) -> None:
        """Sets the variables to those that `state` returned."""
        if len(state) != len(self._optimizer.variables):
            raise ValueError(
                f"Expected {len(self._optimizer.variables)} variables of the optimizer, found "
                f"{len(state)}."
            )
        for variable, saved in zip(self._optimizer.variables, state, strict=True):
            variable.assign(saved)


def outer_optimizers(outer_optimizer: Any, hyper: dict[str, Any]) -> dict[str, OuterOptimizer]:
    """Returns an optimizer for each hyperparameter.

    Args:
      outer_optimizer: A Keras optimizer or a rate of gradient descent, for all or by name.
      hyper: The hyperparameters.

    Returns:
      The optimizers by the names of the hyperparameters.

    Raises:
      TypeError: If `outer_optimizer` is something else.
      ValueError: If names are missing or unknown, or a rate or another number of an optimizer is
        invalid.
    """
    if isinstance(outer_optimizer, Mapping):
        if set(outer_optimizer) != set(hyper):
            raise ValueError(
                f"Expected outer optimizers for {sorted(hyper)}, got {sorted(outer_optimizer)}."
            )
        return {name: OuterOptimizer(outer_optimizer[name], value) for name, value in hyper.items()}
    return {name: OuterOptimizer(outer_optimizer, value) for name, value in hyper.items()}
