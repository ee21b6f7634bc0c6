"""Hyperparameters by name: their kinds (schedules, the dynamics' own) and values in a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures
from mlhf.hypergrad.dynamics.base import Dynamics
from mlhf.hypergrad.flat import FlatWeights

INITIAL_WEIGHTS = "initial_weights"
INITIAL_VELOCITY = "initial_velocity"

Rows = dict[str, Any]


def as_tensors(hyperparameters: Any, dtype: tf.DType) -> Rows:
    """Returns hyperparameters as tensors.

    Args:
      hyperparameters: A mapping from names to tensors, numbers, or structures of them.
      dtype: The dtype that Python numbers get.

    Returns:
      The same structure of tensors, sorted by name.

    Raises:
      TypeError: If `hyperparameters` is not a mapping from names, or a value is not floating.
      ValueError: If the mapping is empty, or a shape is not static.
    """
    if not isinstance(hyperparameters, Mapping) or not all(
        isinstance(name, str) for name in hyperparameters
    ):
        raise TypeError(
            f"Expected hyperparameters as a mapping from names to tensors, got "
            f"{type(hyperparameters).__name__}."
        )
    if not hyperparameters:
        raise ValueError("Expected at least one hyperparameter, got an empty mapping.")

    def convert(name: str, value: Any) -> tf.Tensor:
        if isinstance(value, (bool, np.bool_)):
            tensor = tf.constant(value)
        elif isinstance(value, (int, float)):
            tensor = tf.constant(value, dtype)
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            tensor = tf.constant(value, dtype)
        else:
            # Copied, in case two hyperparameters are the same tensor.
            tensor = tf.identity(tf.convert_to_tensor(value))
        if not tensor.dtype.is_floating:
            raise TypeError(
                f"Expected the hyperparameter {name!r} floating, got {tensor.dtype.name}; close "
                "over what is not differentiated instead of passing it."
            )
        if not tensor.shape.is_fully_defined():
            raise ValueError(f"Expected a static shape of {name!r}, got {tensor.shape}.")
        return tensor

    return {
        name: tf.nest.map_structure(lambda leaf, name=name: convert(name, leaf), value)
        for name, value in sorted(hyperparameters.items())
    }


class Resolver:
    """Resolves hyperparameters of given shapes to their values in each step of a problem.

    A hyperparameter of the dynamics may be a scalar; one value per step, [T] or [T, 1]; one value
    per group, [G] or [1, G]; both, [T, G]; or a structure like the weights, with leaves of their
    shapes (or scalars), all of them with a leading T if they change by step.

    Attributes:
      names: The names of the hyperparameters, sorted.
      leaf_names: The name of each leaf, such as `"l2"` or `"l2/dense/kernel"`.
      leaf_owner: The name of each leaf's hyperparameter.
      scheduled: Whether the first axis of each leaf is the step.
    """

    def __init__(
        self,
        hyperparameters: Rows,
        dynamics: Dynamics,
        flat: FlatWeights,
        steps: int,
        schedules: Sequence[str] = (),
    ):
        """Reads the shapes.

        Args:
          hyperparameters: The hyperparameters as `as_tensors` returns them.
          dynamics: The dynamics, which recognise their own hyperparameters by name.
          flat: The layout of the weights.
          steps: The number of steps, T.
          schedules: The names of the loss's hyperparameters that have one row per step.

        Raises:
          ValueError: If a shape fits no meaning, or more than one.
          TypeError: If a hyperparameter of the dynamics does not have the weights' dtype.
        """
        self._dynamics, self._flat, self._steps = dynamics, flat, steps
        self._structure = tf.nest.map_structure(lambda _: None, hyperparameters)
        self.names = sorted(hyperparameters)
        unknown = set(schedules) - set(self.names)
        if unknown:
            raise ValueError(
                f"Expected schedules= to name hyperparameters {self.names}, got {sorted(unknown)}."
            )
        self._by_step = {}
        for name, value in hyperparameters.items():
            if name in dynamics.constants:
                self._by_step[name] = self._reads_own(name, value)
            else:
                self._by_step[name] = name in schedules
                if name in schedules:
                    self._check_schedule(name, value)
        self.leaf_names, self.leaf_owner = [], []
        for name in self.names:
            for path in structures.leaf_names(hyperparameters[name]):
                nested = tf.nest.is_nested(hyperparameters[name])
                self.leaf_names.append(f"{name}/{path}" if nested else name)
                self.leaf_owner.append(name)
        self.scheduled = [self._by_step[owner] for owner in self.leaf_owner]
        leaves = tf.nest.flatten(hyperparameters)
        self.leaf_shapes = [leaf.shape for leaf in leaves]
        self.leaf_dtypes = [leaf.dtype for leaf in leaves]

    def pack(self, leaves: Iterable[Any]) -> Rows:
        """Returns leaves as the structure of the hyperparameters."""
        return tf.nest.pack_sequence_as(self._structure, list(leaves))

    def rows(self, hyperparameters: Rows, step: Any) -> Rows:
        """Returns the hyperparameters in one step: schedules lose their first axis."""
        leaves = tf.nest.flatten(hyperparameters)
        return self.pack(
            tf.gather(leaf, step) if scheduled else tf.identity(leaf)
            for leaf, scheduled in zip(leaves, self.scheduled, strict=True)
        )

    def dynamics_values(self, rows: Rows) -> dict[str, tf.Tensor]:
        """Returns the dynamics' own hyperparameters in a step, scalars or vectors [P]."""
        values = {}
        for name, constant in self._dynamics.constants.items():
            if name not in rows:
                values[name] = tf.constant(constant, self._flat.dtype)
                continue
            row = rows[name]
            if tf.nest.is_nested(row):
                pieces = [
                    tf.reshape(tf.broadcast_to(leaf, shape), [-1])
                    for leaf, shape in zip(tf.nest.flatten(row), self._flat.shapes, strict=True)
                ]
                values[name] = tf.concat(pieces, 0)
            elif row.shape.num_elements() == 1:
                values[name] = tf.reshape(row, [])
            else:
                values[name] = self._flat.spread(tf.reshape(row, [-1]))
        return values

    def _reads_own(self, name: str, value: Any) -> bool:
        """Returns whether a hyperparameter of the dynamics changes by step; checks its shape."""
        steps, groups = self._steps, len(self._flat.groups)
        for leaf in tf.nest.flatten(value):
            if leaf.dtype != self._flat.dtype:
                raise TypeError(
                    f"Expected {name!r} of the weights' dtype {self._flat.dtype.name}, got "
                    f"{leaf.dtype.name}; cast it first."
                )
        if tf.nest.is_nested(value):
            if self._flat.matches(value):
                leaves = list(zip(tf.nest.flatten(value), self._flat.shapes, strict=True))
                if all(leaf.shape in (shape, []) for leaf, shape in leaves):
                    return False
                if all(leaf.shape in ([steps, *shape], [steps]) for leaf, shape in leaves):
                    return True
            raise ValueError(
                f"Expected {name!r} as a structure like the weights, with leaves of their shapes "
                f"or scalars, each with a leading {steps} if it changes by step; got "
                f"{structures.describe(value)} for weights {self._flat.names}."
            )
        shape = value.shape.as_list()
        if shape == [steps] and shape == [groups] and steps > 1:
            raise ValueError(
                f"Expected {name!r} to tell steps from groups, got shape {shape} with {steps} "
                f"steps and {groups} groups; pass [{steps}, 1] for one value per step or "
                f"[1, {groups}] for one value per group."
            )
        if shape in ([steps], [steps, 1], [steps, groups]):
            return True
        if shape in ([], [groups], [1, groups]):
            return False
        raise ValueError(
            f"Expected {name!r} of shape [] (one value), [{steps}] (one per step), [{groups}] (one "
            f"per group), [{steps}, {groups}] or a structure like the weights, got {shape}."
        )

    def _check_schedule(self, name: str, value: Any) -> None:
        for leaf in tf.nest.flatten(value):
            if leaf.shape.rank == 0 or leaf.shape[0] != self._steps:
                raise ValueError(
                    f"Expected the schedule {name!r} with a leading axis of {self._steps} steps, "
                    f"got shape {leaf.shape}."
                )
