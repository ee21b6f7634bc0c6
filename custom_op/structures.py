"""Structures of tensors: flattening, names of leaves, and checks with readable errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

Structure = Any


def leaf_names(structure: Structure) -> list[str]:
    """Returns a readable name for each leaf of a structure, in the order of `tf.nest.flatten`."""
    count = len(tf.nest.flatten(structure))
    names = ["/".join(path) or "(the tensor itself)" for path in _paths(structure)]
    # Structures of a kind that only TensorFlow knows get numbers for names.
    return names if len(names) == count else [f"leaf {i}" for i in range(count)]


def _paths(structure: Structure) -> list[tuple[str, ...]]:
    if not tf.nest.is_nested(structure):
        return [()]
    if isinstance(structure, Mapping):
        children = [(str(key), structure[key]) for key in sorted(structure)]
    elif hasattr(structure, "_fields"):
        children = list(zip(structure._fields, structure, strict=True))
    elif isinstance(structure, (list, tuple)):
        children = [(str(i), child) for i, child in enumerate(structure)]
    else:
        return []
    return [(name, *path) for name, child in children for path in _paths(child)]


def describe(structure: Structure) -> str:
    """Returns a structure as text, with the shapes of its leaves."""
    shapes = tf.nest.map_structure(lambda leaf: _Text(getattr(leaf, "shape", leaf)), structure)
    return str(shapes)


class _Text:
    """A text that is shown without quotes."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def __repr__(self) -> str:
        return str(self._content)


def spec_of(leaf: Any) -> tf.TensorSpec:
    """Returns the spec of a tensor, a variable or an array, for tracing a function."""
    tensor = tf.convert_to_tensor(leaf)
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def flatten_floating(structure: Structure, what: str) -> list[tf.Tensor]:
    """Returns the leaves as tensors.

    Args:
      structure: A structure of tensors, variables or arrays.
      what: The structure's name in error messages.

    Returns:
      Floating tensors, in the order of `tf.nest.flatten`.

    Raises:
      ValueError: If there is no leaf.
      TypeError: If a leaf is not a floating dense tensor.
    """
    flat = tf.nest.flatten(structure)
    if not flat:
        raise ValueError(f"Expected {what} with at least one tensor, got {structure!r}.")
    names = leaf_names(structure)
    for name, leaf in zip(names, flat, strict=True):
        if leaf is None or isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
            hint = "let the function return one" if leaf is None else "make it dense first"
            found = "None" if leaf is None else f"a {type(leaf).__name__}"
            raise TypeError(f"Expected {what} of dense tensors, got {found} at {name!r}: {hint}.")
    leaves = [tf.convert_to_tensor(leaf) for leaf in flat]
    for name, leaf in zip(names, leaves, strict=True):
        if not leaf.dtype.is_floating:
            raise TypeError(
                f"Expected floating {what}, got {leaf.dtype.name} at {name!r}; close over what is "
                "not differentiated instead of passing it."
            )
    return leaves


def flatten_like(
    structure: Structure, like: Structure, leaves: list[tf.Tensor], what: str
) -> list[tf.Tensor]:
    """Flattens a structure after checking that it matches another.

    Args:
      structure: The structure to flatten.
      like: The structure to match.
      leaves: The flat tensors of `like`, for their shapes and dtypes.
      what: The structure's name in error messages.

    Returns:
      The flat tensors of `structure`.

    Raises:
      ValueError: If structure or shapes differ.
      TypeError: If a dtype differs.
    """
    try:
        tf.nest.assert_same_structure(structure, like)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Expected {what} of the structure {describe(like)}, got {describe(structure)}."
        ) from error
    flat = []
    for name, leaf, reference in zip(
        leaf_names(like), tf.nest.flatten(structure), leaves, strict=True
    ):
        if leaf is None:
            raise ValueError(f"Expected {what} with a tensor at {name!r}, got None.")
        if not tf.is_tensor(leaf):
            leaf = tf.convert_to_tensor(leaf, reference.dtype)
        leaf = tf.convert_to_tensor(leaf)
        if leaf.dtype != reference.dtype:
            raise TypeError(
                f"Expected {what} of dtype {reference.dtype.name} at {name!r}, got "
                f"{leaf.dtype.name}; cast it first."
            )
        if not leaf.shape.is_compatible_with(reference.shape):
            raise ValueError(
                f"Expected {what} of shape {reference.shape} at {name!r}, got {leaf.shape}."
            )
        flat.append(leaf)
    return flat
