"""Keras' names and objects for losses: their meaning here, or what to give instead."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

# Keras' names -> (our name, the activation that Keras expects outputs to have passed).
_LOSSES: dict[str, tuple[str, str | None]] = {
    "SparseCategoricalCrossentropy": ("softmax_cross_entropy", "softmax"),
    "CategoricalCrossentropy": ("softmax_cross_entropy", "softmax"),
    "BinaryCrossentropy": ("sigmoid_cross_entropy", "sigmoid"),
    "MeanSquaredError": ("mean_squared_error", None),
}
_ALIASES = {
    "mse": "MeanSquaredError",
    "MSE": "MeanSquaredError",
    "mean_squared_error": "MeanSquaredError",
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "binary_crossentropy": "BinaryCrossentropy",
    "bce": "BinaryCrossentropy",
    "BCE": "BinaryCrossentropy",
}
REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


class Meaning(NamedTuple):
    """The meaning of a loss of Keras."""

    name: str  # the name of the loss in this package
    title: str  # what the user gave
    activation: str | None  # the activation that outputs have passed; None for logits
    smoothing: float  # the label smoothing
    ignored: int | None = None  # the label that stands for no class


def is_known(loss: Any) -> bool:
    """Returns whether a loss of Keras has a counterpart here, settings aside.

    Args:
      loss: A function, an object or the object around a function (`LossFunctionWrapper`).
    """
    keras = sys.modules["keras"]
    if isinstance(loss, keras.losses.Loss):
        kind = type(loss).__name__
        own = kind in _LOSSES and getattr(keras.losses, kind, None) is type(loss)
        return own and loss.get_config().get("axis", -1) == -1
    name = getattr(loss, "__name__", "")
    return name in _ALIASES and getattr(keras.losses, name, None) is loss


def meaning(loss: Any) -> Meaning | None:
    """Returns the meaning of a loss of Keras; None for anything else.

    Args:
      loss: A name, a function or an object of `keras.losses`. `"mean_squared_error"` names
        the same loss in both packages.

    Returns:
      The loss's name here, and the settings of Keras' loss.

    Raises:
      ValueError: If it has no counterpart: a reduction other than the mean, an axis other than the
        last, or a loss that is unknown here.
    """
    keras = sys.modules.get("keras")
    if isinstance(loss, str):
        kind = _ALIASES.get(loss, loss)
        if kind not in _LOSSES:
            return None
        return _meaning(kind, repr(loss), {})
    if keras is None:
        return None
    name = getattr(loss, "__name__", "")
    if callable(loss) and name and getattr(keras.losses, name, None) is loss:
        if name in _LOSSES:  # the class itself; `compile` would make an instance
            return _meaning(name, f"keras.losses.{name}", {})
        kind = _ALIASES.get(name, name)
        return _meaning(kind, f"keras.losses.{name}", {})
    if not isinstance(loss, keras.losses.Loss):
        return None
    kind = type(loss).__name__
    if getattr(keras.losses, kind, None) is not type(loss):
        raise ValueError(_unknown(f"an object of {kind}"))
    return _meaning(kind, f"keras.losses.{kind}", loss.get_config())


def _meaning(kind: str, title: str, settings: dict[str, Any]) -> Meaning:
    if kind not in _LOSSES:
        raise ValueError(_unknown(title))
    reduction = settings.get("reduction", "sum_over_batch_size")
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"Expected {title} with the reduction 'sum_over_batch_size', got {reduction!r}: a step "
            "is taken on the mean loss, whatever the batch's size. Multiply the learning rate "
            "where a sum was meant."
        )
    if settings.get("axis", -1) != -1:
        raise ValueError(
            f"Expected {title} over the last axis, got axis={settings['axis']}; transpose the "
            "network's outputs."
        )
    name, activation = _LOSSES[kind]
    if settings.get("from_logits"):
        activation = None
    smoothing = float(settings.get("label_smoothing") or 0.0)
    return Meaning(name, title, activation, smoothing, settings.get("ignore_class"))


def _unknown(title: str) -> str:
    if title.lower().endswith("poisson"):
        return (
            f'Expected a loss of log rates, got {title}, which compares rates: give "poisson", and '
            "a network whose outputs are the logarithms of rates."
        )
    return (
        "Expected a loss whose Hessian is known here, as keras.losses.MeanSquaredError, "
        "SparseCategoricalCrossentropy, CategoricalCrossentropy and BinaryCrossentropy, got "
        f"{title}; write it as a custom_op.losses.MeanLoss."
    )
