"""Updates of hyperparameters during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

Update = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


def as_update(update: Update | float | Mapping[str, float]) -> Update:
    """Returns a user's `update=` as a function.

    Args:
      update: A function from hyperparameters and hypergradient to new hyperparameters; or the rate
        of plain gradient descent, one for all or by name.

    Returns:
      The function.

    Raises:
      TypeError: If `update` is none of these.
    """
    if callable(update):
        return update
    if not isinstance(update, (int, float, Mapping)) or isinstance(update, bool):
        raise TypeError(
            "Expected update= to be a function of (hyperparameters, hypergradient), a rate, or "
            f"rates by name, got {update!r}."
        )

    def descend(hyper: dict[str, Any], gradient: dict[str, Any]) -> dict[str, Any]:
        if isinstance(update, Mapping) and set(update) != set(hyper):
            raise ValueError(f"Expected rates for {sorted(hyper)}, got {sorted(update)}.")
        rates = update if isinstance(update, Mapping) else dict.fromkeys(hyper, update)
        return {
            name: tf.nest.map_structure(
                lambda value, slope, rate=rates[name]: value - rate * slope,
                hyper[name],
                gradient[name],
            )
            for name in hyper
        }

    return descend


def apply(update: Update, hyper: dict[str, Any], gradient: dict[str, Any]) -> dict[str, Any]:
    """Returns updated hyperparameters, after comparing them with the previous ones.

    Raises:
      ValueError: If names, shapes or dtypes changed.
    """
    moved = update(hyper, gradient)
    try:
        tf.nest.assert_same_structure(moved, hyper)
        moved = tf.nest.map_structure(
            lambda new, old: tf.ensure_shape(tf.convert_to_tensor(new, old.dtype), old.shape),
            moved,
            hyper,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            "Expected update= to return hyperparameters like those that it was given, names, "
            f"shapes and dtypes: {error}"
        ) from error
    return moved
