"""Weights as one flat vector, in groups that have a hyperparameter in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from custom_op.flat_form import FlatForm


class FlatWeights(FlatForm):
    """How the leaves of a structure of weights lie in a vector [P], and in which groups.

    Attributes:
      groups: The names of the groups, in order; by default every leaf is a group.
      group_of_leaf: The index of each leaf's group.
    """

    def __init__(self, structure: Any, groups: Mapping[str, str] | None = None):
        """Lays out a structure.

        Args:
          structure: Tensors of static shapes and one floating dtype.
          groups: From a leaf's name to the name of its group, for hyperparameters by group. By
            default every leaf is a group of its own.

        Raises:
          ValueError: If there is no leaf, a shape is not static, or `groups` leaves a leaf out.
          TypeError: If a leaf is not floating, or dtypes differ.
        """
        super().__init__(structure, "weights")
        dtypes = {dtype.name for dtype in self._dtypes}
        if len(dtypes) > 1:
            raise TypeError(f"Expected weights of one dtype, got {sorted(dtypes)}; cast them.")
        if groups is None:
            groups = {name: name for name in self.names}
        elif set(groups) != set(self.names):
            raise ValueError(f"Expected groups for {self.names}, got {sorted(groups)}.")
        self.groups = list(dict.fromkeys(groups[name] for name in self.names))
        self.group_of_leaf = [self.groups.index(groups[name]) for name in self.names]

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Returns one value per group, [G], as one value per weight, [P]."""
        return tf.concat(
            [
                tf.broadcast_to(values[group], [size])
                for group, size in zip(self.group_of_leaf, self.sizes, strict=True)
            ],
            0,
        )

    def matches(self, structure: Any) -> bool:
        """Returns whether something has the structure of the weights, shapes aside."""
        try:
            tf.nest.assert_same_structure(structure, self._structure)
        except (ValueError, TypeError):
            return False
        return True
