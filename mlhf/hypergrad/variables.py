"""Refuses losses that read a variable instead of the weights that they are given.

Their derivative in the weights lacks that part, or is zero, and nothing else would show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from custom_op import structures
from custom_op import tensorflow_internals as internals
from custom_op.graphs.captured_variables import Read, Sources, variables_read
from mlhf.hypergrad.flat import FlatWeights


def sources_of(given: Any) -> Sources | None:
    """Returns the variables that weights or hyperparameters were read from, if they can be found.

    Args:
      given: A structure, a built Keras model, or None.

    Returns:
      The variables by the names of the leaves; None for None.
    """
    from mlhf.models import keras_models

    if given is None:
        return None
    if keras_models.is_model(given):
        given = {variable.path: variable for variable in given.trainable_variables}
    leaves = {
        name: leaf
        for name, leaf in zip(structures.leaf_names(given), tf.nest.flatten(given), strict=True)
        if _may_be_read(leaf)
    }
    return Sources(leaves, [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(leaves)])


def _may_be_read(leaf: Any) -> bool:
    """Whether a leaf is a variable, or may have been read from one."""
    if isinstance(leaf, tf.Variable) or isinstance(getattr(leaf, "value", None), tf.Variable):
        return True
    # TensorFlow has one tensor for all scalars of a value, which does not show where they are from.
    return tf.is_tensor(leaf) and leaf.shape.rank != 0


class VariablesRead:
    """The variables that the functions of a problem read, by the function's name."""

    def __init__(self, weights: Any, flat: FlatWeights):
        """Begins with no variables.

        Args:
          weights: The weights that training begins with.
          flat: The layout of the weights.
        """
        self._weights, self._flat = tf.nest.flatten(weights), flat
        self._reads: dict[str, list[Read]] = {}
        self._trainable: dict[str, list[Read]] = {}

    def find(
        self,
        function: str,
        values: Sequence[tf.Tensor],
        watched: Sequence[tf.Variable],
        unread: Sequence[str],
    ) -> None:
        """Looks for the variables that values depend on, in the graph being traced.

        Args:
          function: The name of the function that computed the values.
          values: The tensors.
          watched: The trainable variables that the function read, as a tape recorded them.
          unread: The names of the weights that the values do not depend on.

        Raises:
          ValueError: If a trainable variable has the name or value of a weight, or the shape of a
            weight that is not read.
        """
        reads = variables_read(values)
        handles = [variable.handle for variable in watched]
        trainable = [read for read in reads if any(read.handle is handle for handle in handles)]
        self._reads[function], self._trainable[function] = reads, trainable
        for read in trainable:
            for name, weight in zip(self._flat.names, self._weights, strict=True):
                if _stands_for(read, name, weight, name in unread):
                    _refuse(function, read.name, name)

    def add(self, function: str, variables: Sequence[Any]) -> None:
        """Notes variables that a function read eagerly."""
        self._reads[function] = [Read(v.name, v.handle) for v in variables]

    def check_outer(self, name: str, unread: Sequence[str], reads_hyper: bool) -> None:
        """Checks that an outer loss depends on the weights or directly on a hyperparameter.

        Args:
          name: The name of the loss.
          unread: The names of the weights that it does not depend on.
          reads_hyper: Whether it depends on a hyperparameter.

        Raises:
          ValueError: If it depends on neither, or reads trainable variables instead of the weights.
        """
        if len(unread) < len(self._flat.names):
            return
        reads = self._trainable[name] if reads_hyper else self._reads[name]
        if reads or not reads_hyper:
            instead = f"the variables {[read.name for read in reads]}" if reads else "other values"
            raise ValueError(
                f"The outer loss {name!r} does not depend on the weights that it is given, and its "
                f"hypergradient would be zero. Does it read {instead} instead of them?"
            )

    def check(self, given: Sequence[Sources | None]) -> None:
        """Checks that no function reads a variable whose value it is given.

        Args:
          given: The variables that weights and hyperparameters were read from.

        Raises:
          ValueError: If a function reads one of them.
        """
        for function, reads in self._reads.items():
            for sources in given:
                for leaf, variable in sources.also_read(reads) if sources and reads else ():
                    _refuse(function, variable, leaf)


def _stands_for(read: Read, name: str, weight: tf.Tensor, unread: bool) -> bool:
    """Whether a trainable variable is probably the one that a weight was read from."""
    if read.name == name:
        return True
    if not internals.is_eager(read.handle):
        return False
    with tf.init_scope():
        try:
            value = tf.raw_ops.ReadVariableOp(resource=read.handle, dtype=weight.dtype)
        except tf.errors.OpError:
            return False
    if value.shape != weight.shape:
        return False
    if unread:
        return True
    eager = internals.is_eager(weight)
    # Constant values prove nothing: many variables begin with zeros or ones.
    return eager and len(np.unique(value)) > 1 and np.array_equal(value, weight)


def _refuse(function: str, variable: str, leaf: str) -> NoReturn:
    raise ValueError(
        f"{function} reads the variable {variable!r} instead of what it is given as {leaf!r}, and "
        "the hypergradient would lack what comes through it. Use what the function is given, or "
        "where the variable is meant as a constant, tf.stop_gradient of it."
    )
