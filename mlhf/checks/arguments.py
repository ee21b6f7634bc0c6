"""Checks of arguments. Errors say in one sentence what was expected and what was given."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# Numbers are checked without TensorFlow, because the command lines check theirs before it loads.
from replay.numbers import check_count, check_number

__all__ = [
    "check_choice",
    "check_count",
    "check_executor",
    "check_keras_optimizer",
    "check_number",
    "check_parameters",
]

# Numbers of Keras' optimizers that are the share of an average that a step keeps.
_KEPT_SHARES = ("beta_1", "beta_2", "adam_beta_1", "adam_beta_2", "momentum", "rho", "ema_momentum")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """Returns a value that is one of the choices; raises ValueError for any other."""
    if value not in choices:
        raise ValueError(f"Expected {name} to be one of {list(choices)}, got {value!r}.")
    return value


def check_executor(executor: Any) -> Any:
    """Returns an executor, or None; raises TypeError for an object that has no `map`."""
    if executor is not None and not callable(getattr(executor, "map", None)):
        raise TypeError(
            "Expected an executor with map(function, *iterables), such as "
            f"mlhf.distribute.ProcessExecutor(jobs) or one of concurrent.futures, got {executor!r}."
        )
    return executor


def check_keras_optimizer(name: str, optimizer: Any) -> None:
    """Raises ValueError if a Keras optimizer was made with a number that makes no sense.

    Keras accepts a rate of -1, a β of 2 and NaN without complaint. A learning rate must be finite
    and at least 0 (schedules are not checked), shares that are kept (`beta_1`, `momentum`, `rho`
    ...) must be at least 0 and below 1, and every other number must be finite.
    """
    for key, value in optimizer.get_config().items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            continue
        what = f"{key} of {name}, {type(optimizer).__name__},"
        if key == "learning_rate":
            check_number(what, value, at_least=0)
        elif key in _KEPT_SHARES:
            check_number(what, value, at_least=0, below=1)
        else:
            check_number(what, value)


def check_parameters(structure: Any) -> tf.DType:
    """Returns the dtype that all parameters have.

    Raises:
      ValueError: If there are none, or they are not dense tensors of static shapes and one
        floating dtype, so that no optimizer can train them.
    """
    leaves = tf.nest.flatten(structure)
    if not leaves:
        raise ValueError(f"Expected parameters, at least one, got {structure!r}.")
    for leaf in leaves:
        if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor, tf.IndexedSlices, type)):
            raise ValueError(
                f"Expected dense tensors or variables as parameters, got {leaf!r} of the type "
                f"{type(leaf).__name__}."
            )
        if not hasattr(leaf, "shape"):
            raise ValueError(
                f"Expected tensors or variables as parameters, got {leaf!r} of the type "
                f"{type(leaf).__name__}."
            )
        if not tf.TensorShape(leaf.shape).is_fully_defined():
            raise ValueError(f"Expected parameters of static shape, got {leaf.shape}.")
    dtypes = {tf.as_dtype(leaf.dtype) for leaf in leaves}
    if len(dtypes) != 1:
        raise ValueError(f"Expected parameters of one dtype, got {sorted(d.name for d in dtypes)}.")
    (dtype,) = dtypes
    if not dtype.is_floating:
        raise ValueError(f"Expected floating parameters, got {dtype.name}.")
    return dtype
