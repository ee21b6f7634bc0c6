"""Optimizer states in the form that files hold: their leaves, checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures
from mlhf.optimizers.settings import optional_count


def to_leaves(state: Any) -> dict[str, Any]:
    """Returns any structure of tensors as a structure for `replay.write_structure`."""
    return {"leaves": list(tf.nest.flatten(state))}


def from_leaves(saved: Any, like: Any, finite: bool = False) -> Any:
    """Returns the state that `to_leaves` took apart.

    Args:
      saved: The structure that `to_leaves` returned, or that was read from a file of it.
      like: A state of the same optimizer, as `init` returns it.
      finite: Whether every floating number has to be finite.

    Returns:
      A state in the structure and dtypes of `like`.

    Raises:
      ValueError: If it is the state of another optimizer or network, or no state at all: with
        integers instead of floating numbers, or other shapes.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(f"Expected a saved state, found {type(saved).__name__}.")
    expected, names = tf.nest.flatten(like), structures.leaf_names(like)
    leaves = saved.get("leaves")
    if not isinstance(leaves, (list, tuple)):
        raise ValueError(
            f"Expected a state of a {type(like).__name__}, found one of another optimizer, with "
            f"{sorted(saved)}."
        )
    leaves = _as_counted(list(leaves), like)
    if len(expected) != len(leaves):
        raise ValueError(
            f"Expected a state of {len(expected)} arrays, {names}, found one of {len(leaves)}."
        )
    triples = zip(names, expected, leaves, strict=True)
    values = [_load_leaf(name, leaf, model, finite) for name, model, leaf in triples]
    return tf.nest.pack_sequence_as(like, values)


def _as_counted(leaves: list[Any], like: Any) -> list[Any]:
    """Returns leaves with a count of steps at their end if a number is scheduled now."""
    expected = len(tf.nest.flatten(like))
    if optional_count(like):
        counted = not isinstance(like.step, tuple)
        if counted and len(leaves) == expected - 1:
            return [*leaves, np.int32(0)]
        if not counted and len(leaves) == expected + 1:
            return leaves[:-1]
    return leaves


def load(name: str, saved: Any, like: Any, finite: bool) -> Any:
    """Returns a structure like another one, or raises ValueError."""
    # Names are not compared: Keras numbers layers anew in every process.
    paths, count = structures.leaf_names(like), len(tf.nest.flatten(saved))
    if len(paths) != count:
        raise ValueError(
            f"Expected {name} with {len(paths)} arrays, {paths}, found {count}: the state of "
            "another network?"
        )
    leaves = [
        _load_leaf(f"{name}/{path}" if len(paths) > 1 else name, b, a, finite)
        for path, a, b in zip(paths, tf.nest.flatten(like), tf.nest.flatten(saved), strict=True)
    ]
    return tf.nest.pack_sequence_as(like, leaves)


def _load_leaf(name: str, saved: Any, like: Any, finite: bool) -> tf.Tensor:
    array, dtype, shape = np.asarray(saved), tf.as_dtype(like.dtype), tuple(like.shape)
    numeric = np.issubdtype(array.dtype, np.floating if dtype.is_floating else np.integer)
    if array.shape != shape or not (numeric or array.dtype == dtype.as_numpy_dtype):
        raise ValueError(
            f"Expected {name} of the shape {shape} in {dtype.name}, found {array.dtype} of the "
            f"shape {array.shape}: the state of another network?"
        )
    if finite and dtype.is_floating and not np.all(np.isfinite(array)):
        raise ValueError(f"Expected finite numbers in {name}, found some that are not.")
    return tf.constant(array, dtype)
