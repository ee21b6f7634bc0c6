"""Checks of the arguments that every method takes, before anything is traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures
from custom_op.fallback import NotDifferentiableError

_OF_TENSORFLOW = ("/tensorflow/", "/keras/", "\\tensorflow\\", "\\keras\\")


def as_seed(seed: Any) -> tf.Tensor:
    """Returns a seed as an int32 scalar.

    Raises:
      TypeError: If it is not a whole number that an int32 holds.
    """
    if tf.is_tensor(seed) and seed.dtype.is_integer and seed.shape.rank == 0:
        return tf.cast(seed, tf.int32)
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not whole or not -(2**31) <= seed < 2**31:
        raise TypeError(
            f"Expected seed= as a whole number that an int32 holds, got {seed!r}; of several "
            "seeds, call once for each, or use several(...)."
        )
    return tf.constant(int(seed), tf.int32)


def as_count(name: str, value: Any) -> int:
    """Returns a whole number of at least 1, or raises ValueError."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ValueError(f"Expected {name} >= 1, a whole number, got {value!r}.")
    return int(value)


def like_weights(value: Any, flat: Any, what: str) -> None:
    """Checks that a value is structured and shaped like the weights.

    Args:
      value: A structure of tensors.
      flat: The layout of the weights.
      what: The name of the value, for the error's text.

    Raises:
      ValueError: If it is not.
    """
    shapes = [leaf.shape for leaf in tf.nest.flatten(value)] if flat.matches(value) else None
    if shapes != list(flat.shapes):
        expected = {
            name: shape.as_list() for name, shape in zip(flat.names, flat.shapes, strict=True)
        }
        raise ValueError(
            f"Expected {what} structured like the weights {expected}, got "
            f"{structures.describe(value)}."
        )


def called(what: str, given: Mapping[str, Any], function: Callable[[], Any]) -> Any:
    """Calls a user's function; an error that TensorFlow raises inside it also names its arguments.

    Args:
      what: The function's name, for the error's text.
      given: The function's arguments, by name.
      function: A call of the function with these arguments.

    Returns:
      The function's result.

    Raises:
      ValueError: If an operation in the function refuses shapes or dtypes, or the function reads a
        hyperparameter that does not exist.
      NotDifferentiableError: Raised by the function, and passed on as it is.
      KeyError: Likewise.
      TypeError: Likewise.
      OpError: Likewise.
    """
    try:
        return function()
    except NotDifferentiableError:
        raise
    except KeyError as error:
        names = given.get("hyperparameters")
        missing = error.args[0] if error.args else None
        if not isinstance(names, Mapping) or missing in names or not isinstance(missing, str):
            raise
        raise ValueError(
            f"Expected {what} to read what it is given, but there is no {missing!r}: the "
            f"hyperparameters are {sorted(names)}{_weights_too(given)}."
        ) from error
    except (TypeError, ValueError, tf.errors.OpError) as error:
        if not _raised_by_tensorflow(error):
            raise
        listed = "; ".join(
            f"{name} {_described(value)}" for name, value in given.items() if value is not None
        )
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Expected {what} to run on {listed}, but an operation in it raised "
            f"{type(error).__name__}: {reason} Cast or reshape what does not fit."
        ) from error


def _weights_too(given: Mapping[str, Any]) -> str:
    weights = given.get("weights")
    return f", the weights {sorted(weights)}" if isinstance(weights, Mapping) else ""


def _described(value: Any) -> str:
    def text(leaf: Any) -> Any:
        return f"{leaf.dtype.name}{list(leaf.shape)}" if hasattr(leaf, "dtype") else leaf

    return str(tf.nest.map_structure(text, value)).replace("'", "")


def _raised_by_tensorflow(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_code.co_filename if trace is not None else ""
    return any(part in name for part in _OF_TENSORFLOW)
