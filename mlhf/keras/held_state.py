"""The state of an optimizer in Keras variables, and in the files that Keras saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures
from mlhf.optimizers.protocol import PlainState

# What the keys of a file begin with.
STATE, POINT = "state_", "point_"

Parameters = Mapping[str, tf.Tensor]


class HeldState:
    """The variables of a state; of optimizers that evaluate an average, also of their points.

    The model's variables are the parameters to evaluate. Of most optimizers that is where the next
    step starts, too; where it is not, the points that steps go through are kept here.
    """

    def __init__(self, keras_optimizer: Any, parameters: Parameters, state: Any) -> None:
        """Makes the variables.

        Args:
          keras_optimizer: The Keras optimizer to which the variables belong.
          parameters: The parameters by name.
          state: The first state.
        """
        self._optimizer = keras_optimizer.optimizer
        self._structure = state
        add = keras_optimizer.add_variable
        names, leaves = structures.leaf_names(state), tf.nest.flatten(state)
        self._state = [
            _variable(add, leaf, f"{STATE}{name}") for name, leaf in zip(names, leaves, strict=True)
        ]
        self._points: dict[str, Any] = {}
        method = getattr(type(self._optimizer), "evaluation_parameters", None)
        if method is not PlainState.evaluation_parameters:
            self._points = {
                name: _variable(add, leaf, f"{POINT}{name}") for name, leaf in parameters.items()
            }

    def begin(self, parameters: Parameters, state: Any) -> None:
        """Sets the state, and the points to the parameters."""
        for variable, value in zip(self._state, tf.nest.flatten(state), strict=True):
            variable.assign(value)
        for name, variable in self._points.items():
            variable.assign(parameters[name])

    def read(self, parameters: Parameters) -> tuple[Any, Any]:
        """Returns the parameters that the next step starts from, and the state.

        Args:
          parameters: The values of the model's variables.
        """
        leaves = [tf.convert_to_tensor(variable) for variable in self._state]
        points = {name: tf.convert_to_tensor(variable) for name, variable in self._points.items()}
        return points or parameters, tf.nest.pack_sequence_as(self._structure, leaves)

    def write(self, parameters: Parameters, state: Any) -> Any:
        """Writes what a step returned; returns the parameters to evaluate."""
        self.begin(parameters, state)
        if self._points:
            return self._optimizer.evaluation_parameters(parameters, state)
        return parameters

    def is_left_behind(self, parameters: Parameters) -> bool:
        """Returns whether the model's weights are others than the averages of the last step.

        Args:
          parameters: The values of the model's variables.
        """
        if not self._points:
            return False
        expected = self._optimizer.evaluation_parameters(*self.read(parameters))
        return any(
            not np.allclose(value, expected[name], 1e-5, 1e-7) for name, value in parameters.items()
        )

    def save(self, store: Any, parameters: Parameters) -> None:
        """Writes the state into a store of arrays, the same on every machine."""
        points, state = self.read(parameters)
        saved = self._optimizer.to_saved(state, points)
        for number, leaf in enumerate(tf.nest.flatten(saved)):
            store[f"{STATE}{number:05d}"] = np.asarray(leaf)
        for number, variable in enumerate(self._points.values()):
            store[f"{POINT}{number:05d}"] = np.asarray(variable)

    def load(self, store: Any, parameters: Parameters) -> None:
        """Reads the state that `save` wrote.

        Args:
          store: The store of arrays.
          parameters: The values of the model's variables.

        Raises:
          ValueError: If it is the state of another optimizer or network.
        """
        points, like = self.read(parameters)
        saved = self._optimizer.to_saved(like, points)
        keys = sorted(key for key in store.keys() if key.startswith(STATE))
        known = [f"{POINT}{number:05d}" for number in range(len(self._points))]
        if len(keys) != len(tf.nest.flatten(saved)) or not set(known) <= set(store.keys()):
            raise ValueError(
                f"Expected a state of {type(self._optimizer).__name__} with "
                f"{len(tf.nest.flatten(saved))} arrays, found {len(keys)}: the model was saved "
                "with another optimizer or other settings."
            )
        saved = tf.nest.pack_sequence_as(saved, [np.asarray(store[key]) for key in keys])
        state = self._optimizer.from_saved(saved, like, points)
        arrays = [np.asarray(store[key]) for key in known]
        self.begin(dict(zip(self._points, arrays, strict=True)), state)


def _variable(add: Any, leaf: tf.Tensor, name: str) -> Any:
    variable = add(tuple(leaf.shape), "zeros", leaf.dtype.name, name=name.replace("/", "_"))
    variable.assign(leaf)
    return variable
