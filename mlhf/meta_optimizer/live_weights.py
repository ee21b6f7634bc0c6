"""The LSTMs' weights for a user's `tf.function`, which reads their values when its graph runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.meta_optimizer import coordinate_lstm
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.optimizers.settings import new_variable


class LiveWeights:
    """Variables with the current weights, one for each role and kind that a graph has read."""

    def __init__(self) -> None:
        """Starts without variables."""
        self._rows: dict[tuple[str, str], tf.Variable] = {}

    def read(
        self,
        wanted: Sequence[str],
        roles: Sequence[str],
        kinds: list[str],
        weights: dict[str, LSTMWeights],
        dtype: tf.DType,
    ) -> dict[str, LSTMWeights]:
        """Returns weights inside a graph.

        Args:
          wanted: The kinds to return, in their order.
          roles: The roles to return.
          kinds: The kinds of `weights`.
          weights: The current weights by role.
          dtype: The dtype to return.
        """
        read = {}
        for role in roles:
            shapes = [value.shape[1:] for value in weights[role]]
            rows = tf.stack([self._row(role, kind, kinds, weights) for kind in wanted])
            parts = tf.split(rows, [shape.num_elements() for shape in shapes], 1)
            read[role] = LSTMWeights(
                *[
                    tf.cast(tf.reshape(part, [len(wanted), *shape]), dtype)
                    for part, shape in zip(parts, shapes, strict=True)
                ]
            )
        return read

    def update(self, kinds: list[str], weights: dict[str, LSTMWeights]) -> None:
        """Assigns new weights to the variables that have been read."""
        for (role, kind), variable in self._rows.items():
            variable.assign(tf.cast(_row_of(weights[role], kinds.index(kind)), variable.dtype))

    def _row(
        self, role: str, kind: str, kinds: list[str], weights: dict[str, LSTMWeights]
    ) -> tf.Tensor:
        if (role, kind) not in self._rows:
            with tf.init_scope():
                row = _row_of(weights[role], kinds.index(kind)).numpy()
            name = f"mlhf_weights_{role}_{len(self._rows)}"
            self._rows[role, kind] = new_variable(row, tf.as_dtype(row.dtype), name)
        return self._rows[role, kind].read_value()


def check(weights: Any, roles: Sequence[str], kinds: Sequence[str]) -> None:
    """Checks that weights are finite and belong to some kinds and roles.

    Args:
      weights: The weights by role.
      roles: The roles that are required.
      kinds: The kinds, in the order of the weights' first axis.

    Raises:
      TypeError: If they are of another type, or known only when a graph runs.
      ValueError: If a role is missing, a shape or a dtype is wrong, or a number is not finite.
    """
    if not isinstance(weights, Mapping) or set(roles) - set(weights):
        given = sorted(weights) if isinstance(weights, Mapping) else type(weights).__name__
        raise ValueError(f"Expected weights for the roles {sorted(roles)}, got {given}.")
    like = coordinate_lstm.initial_weights(len(kinds), 0, tf.float32)
    for role in roles:
        if not isinstance(weights[role], LSTMWeights):
            raise TypeError(
                f"Expected LSTMWeights for the role {role!r}, got {type(weights[role]).__name__}."
            )
        for name, value, model in zip(like._fields, weights[role], like, strict=True):
            if tf.is_tensor(value) and not hasattr(value, "numpy"):
                raise TypeError(
                    f"Expected weights that are set outside of any tf.function, got {value} for "
                    f"{role}/{name}."
                )
            problem = describe_misfit(value, model.shape)
            if problem is not None:
                raise ValueError(f"{role}/{name}: {problem} for the kinds {list(kinds)}.")


def describe_misfit(value: Any, shape: Any) -> str | None:
    """Returns what is wrong with numbers as weights of a shape; None if nothing is."""
    array = np.asarray(value)
    if array.shape != tuple(shape) or not tf.as_dtype(array.dtype).is_floating:
        return (
            f"expected floating numbers of shape {tuple(shape)}, got {array.dtype.name} of shape "
            f"{array.shape}"
        )
    if not np.all(np.isfinite(array)):
        return "expected finite numbers, got some that are not"
    return None


def _row_of(weights: LSTMWeights, row: int) -> tf.Tensor:
    return tf.concat([tf.reshape(value[row], [-1]) for value in weights], 0)
