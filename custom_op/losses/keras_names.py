"""Keras' names and objects for losses, as what they mean or with what to give instead."""

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
_REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


class Meaning(NamedTuple):
    """What a loss of Keras is here."""

    name: str  # of a loss of this package
    title: str  # what the user gave
    activation: str | None  # what outputs have passed, where the loss is not from logits
    smoothing: float  # of labels
    ignored: int | None = None  # the label that stands for no class


def meaning(loss: Any) -> Meaning | None:
    """Returns what a loss of Keras means here; None for what is none of Keras'.

    Args:
      loss: A name, a function or an object of `keras.losses`. `"mean_squared_error"` is a name of
        both packages, for one loss, and so are those with underscores of this one.

    Returns:
      The loss's name here, and what else Keras' says.

    Raises:
      ValueError: If it has no counterpart: another reduction than the mean, an axis that is not
        the last, a loss that is not known here.
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
        if name in _LOSSES:  # the class itself, of which `compile` makes an object
            return _meaning(name, f"keras.losses.{name}", {})
        kind = _ALIASES.get(name, name)
        return _meaning(kind, f"keras.losses.{name}", {})
    if not isinstance(loss, keras.losses.Loss):
        return None
    kind = type(loss).__name__
    if getattr(keras.losses, kind, None) is not type(loss):
        raise _unknown(f"an object of {kind}")
    return _meaning(kind, f"keras.losses.{kind}", loss.get_config())


def _meaning(kind: str, title: str, settings: dict[str, Any]) -> Meaning:
    if kind not in _LOSSES:
        raise _unknown(title)
    reduction = settings.get("reduction", "sum_over_batch_size")
    if reduction not in _REDUCTIONS:
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


def _unknown(title: str) -> ValueError:
    if title.lower().endswith("poisson"):
        return ValueError(
            f'Expected a loss of log rates, got {title}, which compares rates: give "poisson", and '
            "a network whose outputs are the logarithms of rates."
        )
    return ValueError(
        "Expected a loss whose Hessian is known here, as keras.losses.MeanSquaredError, "
        "SparseCategoricalCrossentropy, CategoricalCrossentropy and BinaryCrossentropy, got "
        f"{title}; write it as a custom_op.losses.MeanLoss."
    )
