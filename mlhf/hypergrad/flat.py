"""Weights as one flat vector, and what lies where in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from custom_op import structures


class FlatWeights:
    """How the leaves of a structure of weights lie in a vector [P].

    Attributes:
      size: P, the number of weights.
      dtype: The leaves' dtype.
      names: The leaves' names, in the order in which they lie.
      shapes: Their shapes.
      sizes: Their numbers of weights.
      groups: The names of the groups, in order; by default every leaf is one.
      group_of_leaf: For each leaf the index of its group.
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
        leaves = structures.flatten_floating(structure, "weights")
        self.names = structures.leaf_names(structure)
        dtypes = {leaf.dtype.name for leaf in leaves}
        if len(dtypes) > 1:
            raise TypeError(f"Expected weights of one dtype, got {sorted(dtypes)}; cast them.")
        for name, leaf in zip(self.names, leaves, strict=True):
            if not leaf.shape.is_fully_defined():
                raise ValueError(f"Expected a static shape of {name!r}, got {leaf.shape}.")
        self.dtype = leaves[0].dtype
        self.shapes = [leaf.shape for leaf in leaves]
        self.sizes = [leaf.shape.num_elements() for leaf in leaves]
        self.size = sum(self.sizes)
        self._structure = tf.nest.map_structure(lambda _: None, structure)
        if groups is None:
            groups = {name: name for name in self.names}
        elif set(groups) != set(self.names):
            raise ValueError(f"Expected groups for {self.names}, got {sorted(groups)}.")
        self.groups = list(dict.fromkeys(groups[name] for name in self.names))
        self.group_of_leaf = [self.groups.index(groups[name]) for name in self.names]

    def flatten(self, structure: Any) -> tf.Tensor:
        """Returns a structure like the weights as one vector [P]."""
        return tf.concat(
            [tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(structure)], 0, name="flatten"
        )

    def unflatten(self, vector: tf.Tensor) -> Any:
        """Returns a vector [P] as a structure like the weights."""
        pieces = tf.split(vector, self.sizes) if len(self.sizes) > 1 else [vector]
        leaves = [
            tf.reshape(piece, shape) for piece, shape in zip(pieces, self.shapes, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._structure, leaves)

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Returns a value a group, [G], as a value a weight, [P]."""
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
