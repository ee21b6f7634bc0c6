"""Outputs as a loss expects them: logits for a cross entropy, log rates for Poisson's."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

import custom_op
from custom_op.losses import activations, keras_names, registry


def resolve(loss: Any) -> tuple[custom_op.losses.Loss, str | None]:
    """Returns a loss, and the activation that outputs have to pass for it as the user gave it.

    Args:
      loss: A `custom_op.losses.Loss`, its name, or a name, function or object of `keras.losses`.

    Returns:
      The loss from logits; `"softmax"` or `"sigmoid"` if what was given compares probabilities
      (`"sparse_categorical_crossentropy"`), otherwise None.

    Raises:
      ValueError: If the loss is unknown.
    """
    known = isinstance(loss, custom_op.losses.Loss) or (
        isinstance(loss, str) and loss in custom_op.losses.names()
    )
    meaning = None if known else keras_names.meaning(loss)
    if meaning is None:
        return custom_op.losses.get(loss), None
    return registry.of_meaning(meaning), meaning.activation


def undone(outputs: tf.Tensor, activation: str, required: bool, title: str) -> tf.Tensor:
    """Returns outputs from before an activation; outputs that have passed none, unchanged.

    Args:
      outputs: A model's outputs, symbolic.
      activation: The activation that the loss applies itself.
      required: Whether the loss, as the user gave it, compares activated outputs.
      title: The model's name in error messages.

    Returns:
      The outputs, with a softmax, sigmoid or exponential at the end of the model taken off exactly.

    Raises:
      ValueError: If the outputs are probabilities whose logits can't be recovered, or have to be
        probabilities and are not known to be.
    """
    before = activations.before(outputs, activation)
    if before is not None:
        return before
    wrong = activations.wrong_for(outputs, activation)
    if wrong:
        raise ValueError(
            f"Expected outputs from before their {activation}, got {title}, whose outputs are "
            f"{wrong}: the loss takes the {activation} itself. End the model in the layer before "
            "it (activation=None), or in the activation alone, which is then taken off."
        )
    if required:
        raise ValueError(
            f"Expected outputs that end in a {activation}, got {title}, whose outputs do not: the "
            "loss as it was given compares probabilities. Give keras.losses' with "
            'from_logits=True, or "softmax_cross_entropy" or "sigmoid_cross_entropy", if they '
            "are logits."
        )
    return outputs
