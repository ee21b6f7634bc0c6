"""Seeds in a network's state: replicas must not drop out the same places of their examples."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from custom_op import structures

# The name that Keras gives the variable of a `SeedGenerator`: a seed and a count of draws.
_NAME = "seed_generator_state"
# Seeds of neighboring replicas differ by this odd number.
_STRIDE = 0x9E3779B1


def of_replica(model_state: Any, number: int) -> Any:
    """Returns a model state whose Keras seeds are a replica's own; replica 0 has the state's."""
    return _moved(model_state, number * _STRIDE % 2**31)


def of_all(model_state: Any, number: int) -> Any:
    """Returns the model state that all share, after a replica has drawn from its own seeds."""
    return _moved(model_state, -(number * _STRIDE % 2**31))


def _moved(model_state: Any, by: int) -> Any:
    leaves = tf.nest.flatten(model_state)
    if by == 0 or not leaves:
        return model_state
    moved = [
        leaf + tf.cast([by, 0], leaf.dtype) if _is_seed(name, leaf) else leaf
        for name, leaf in zip(structures.leaf_names(model_state), leaves, strict=True)
    ]
    return tf.nest.pack_sequence_as(model_state, moved)


def _is_seed(name: str, leaf: tf.Tensor) -> bool:
    return name.endswith(_NAME) and leaf.dtype.is_integer and leaf.shape == [2]
