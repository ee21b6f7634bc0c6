"""Structures of tensors as vectors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Structure = Any


def inner(a: Structure, b: Structure) -> tf.Tensor:
    """Returns the inner product of two structures of tensors, a scalar."""
    pairs = zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True)
    return tf.add_n([tf.reduce_sum(x * y) for x, y in pairs])


def in_dtype_of(parameters: Structure, value: tf.Tensor) -> tf.Tensor:
    """Casts a loss, since a network may compute in another precision than its parameters'."""
    return tf.cast(value, tf.nest.flatten(parameters)[0].dtype)


def add(a: Structure, b: Structure) -> Structure:
    """Returns the sum of two structures of tensors."""
    return tf.nest.map_structure(tf.add, a, b)
