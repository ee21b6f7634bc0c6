"""Losses of a Keras model as pure functions, for training that is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

import custom_op
from mlhf import keras_models


def keras_losses(
    model: Any,
    loss: Any,
    *,
    valid_data: tuple[Any, Any],
    regularizer: Callable[[Any, Any], tf.Tensor] | None = None,
    training: bool = True,
) -> tuple[Callable[..., tf.Tensor], Callable[..., tf.Tensor]]:
    """Returns the training loss and the validation loss of a model, for `Problem`.

    The weights are `mlhf.get_parameters(model)`, or the model itself. Dropout and augmentation
    layers draw from `seed` and `step`, the same in both passes; moving statistics stay what they
    are in the model.

    Args:
      model: A built `keras.Model`.
      loss: A name or an object of `custom_op.losses`, or a function of (targets, outputs) such as a
        Keras loss (which computes in `keras.config.floatx()`), whose mean is taken.
      valid_data: (inputs, targets).
      regularizer: From weights and hyperparameters to what is added to the training loss.
      training: Whether the training loss runs the model in training mode. Normalisation layers
        with batch statistics have no second derivative in TensorFlow and are refused by `Problem`;
        with False they use their moving statistics (and dropout is off).

    Returns:
      `train_loss(weights, hyperparameters, step, batch, seed)`, which needs `Problem(batches=...)`
      that returns (inputs, targets); and `valid_loss(weights, hyperparameters)`.

    Raises:
      ValueError: If the model is not built, or the loss is not known; when the losses are traced,
        if the model has losses of its own, such as a layer's `kernel_regularizer`.
    """
    keras_models.get_parameters(model)  # checks it
    paths = [variable.path for variable in model.trainable_variables]
    is_own = isinstance(loss, (str, custom_op.losses.Loss))
    own = custom_op.losses.get(loss) if is_own else None

    def run(weights, inputs, state, mode):
        if set(weights) != set(paths):
            raise ValueError(f"Expected weights for {sorted(paths)}, got {sorted(weights)}.")
        outputs, _, own_losses = model.stateless_call(
            [weights[path] for path in paths], state, inputs, training=mode, return_losses=True
        )
        if own_losses:
            raise ValueError(
                f"Expected a Keras model without losses of its own, got {model.name!r} with "
                f"{len(own_losses)} of them (a layer's kernel_regularizer, activity_regularizer or "
                "add_loss), which would be left out. Make the model without them, and pass "
                "keras_losses(regularizer=...), a function of weights and hyperparameters."
            )
        return outputs

    def measure(targets, outputs):
        return own.value(outputs, targets) if own else tf.reduce_mean(loss(targets, outputs))

    def train_loss(weights, hyperparameters, step, batch, seed):
        inputs, targets = tf.nest.map_structure(tf.convert_to_tensor, tuple(batch))
        state = _state(model, seed, step)
        value = measure(targets, run(weights, inputs, state, training))
        return value if regularizer is None else value + regularizer(weights, hyperparameters)

    def valid_loss(weights, hyperparameters):
        inputs, targets = tf.nest.map_structure(tf.convert_to_tensor, tuple(valid_data))
        state = [tf.convert_to_tensor(variable) for variable in model.non_trainable_variables]
        return measure(targets, run(weights, inputs, state, False))

    return train_loss, valid_loss


def _state(model: Any, seed: tf.Tensor, step: tf.Tensor) -> list[tf.Tensor]:
    """The non-trainable variables in a step: generators seeded by it, all else as it is."""
    state = []
    for number, variable in enumerate(model.non_trainable_variables):
        value = tf.convert_to_tensor(variable)
        if "seed_generator_state" in variable.path or "seed_generator" in variable.path:
            # Generators of one model must not draw the same.
            pair = tf.stack([seed * 1009 + number, step])
            value = tf.cast(tf.reshape(pair, value.shape), value.dtype)
        state.append(value)
    return state
