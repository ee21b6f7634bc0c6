"""Checks that a structure has the expected leaves; errors name those that differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures


def check_like(what: str, given: Any, like: Any, remedy: str) -> list[tf.Tensor]:
    """Returns the leaves of a structure as tensors in the dtypes of another structure's leaves.

    Args:
      what: The name of the structure in error messages.
      given: The structure to check.
      like: A structure of tensors or variables with the expected names, shapes and sorts of
        numbers (floating or not).
      remedy: The advice that ends an error message.

    Raises:
      ValueError: If a leaf is missing or superfluous, or has another shape or sort of number.
      TypeError: If a leaf is not a tensor, or the structure is of another kind.
    """
    names = structures.leaf_names(like)
    try:
        tf.nest.assert_same_structure(given, like, check_types=False)
        same = structures.leaf_names(given) == names
    except (ValueError, TypeError):
        same = False
    if not same:
        if isinstance(like, Mapping) and isinstance(given, Mapping):
            found = [str(name) for name in given]
            missing, more = sorted(set(names) - set(found)), sorted(set(found) - set(names))
            text = f"got none for {missing}" if missing else f"got some for {more} too"
            raise ValueError(f"Expected {what} for {sorted(names)}, {text}: {remedy}.")
        raise TypeError(
            f"Expected {what} as a structure of {structures.describe(like)}, got {kind(given)}: "
            f"{remedy}."
        )
    pairs = zip(names, tf.nest.flatten(given), tf.nest.flatten(like), strict=True)
    return [_as_tensor(what, name, leaf, expected, remedy) for name, leaf, expected in pairs]


def _as_tensor(what: str, name: str, leaf: Any, expected: Any, remedy: str) -> tf.Tensor:
    dtype = tf.as_dtype(expected.dtype)
    if leaf is None or isinstance(leaf, (str, bytes)) or callable(leaf):
        raise TypeError(f"Expected a tensor for {name} of {what}, got {kind(leaf)}: {remedy}.")
    if not hasattr(leaf, "shape"):
        leaf = np.asarray(leaf)
    actual = tf.as_dtype(leaf.dtype)
    if tuple(leaf.shape) != tuple(expected.shape) or actual.is_floating != dtype.is_floating:
        raise ValueError(
            f"Expected {name} of {what} in {dtype.name} of the shape {tuple(expected.shape)}, got "
            f"{actual.name} of the shape {tuple(leaf.shape)}: {remedy}."
        )
    return tf.cast(tf.convert_to_tensor(leaf), dtype)


def check_path(what: str, path: Any) -> None:
    """Raises TypeError, with the name `what`, unless it is given a string or a path."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"Expected {what} as a string or a path, got {kind(path)}.")


def kind(thing: Any) -> str:
    """Returns an object and its type as error messages describe them."""
    if thing is None:
        return "None"
    text = repr(thing).replace("\n", " ")
    return f"{text if len(text) < 60 else text[:57] + '...'} of the type {type(thing).__name__}"
