"""Losses of a Keras model as pure functions, for training that is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

import custom_op
from custom_op.losses import activations
from mlhf.models import keras_call, keras_contracts, keras_models, natural_outputs

_ADVICE = (
    "Make the model without them, and pass keras_losses(regularizer=...), a function of weights "
    "and hyperparameters."
)


def keras_losses(
    model: Any,
    loss: Any,
    *,
    valid_data: tuple[Any, Any],
    regularizer: Callable[[Any, Any], tf.Tensor] | None = None,
    training: bool = True,
    ignore_overrides: bool = False,
) -> tuple[Callable[..., tf.Tensor], Callable[..., tf.Tensor]]:
    """Returns the training loss and the validation loss of a model, for `Problem`.

    The weights are `mlhf.get_parameters(model)`, or the model itself. Dropout and augmentation
    layers draw from `seed` and `step`, the same in both passes; moving statistics stay what they
    are in the model.

    Args:
      model: A built `keras.Model`.
      loss: A name or an object of `custom_op.losses`; a name of Keras' (`"mse"`,
        `"sparse_categorical_crossentropy"` for a model that ends in a softmax); or a function of
        (targets, outputs) such as a Keras loss object (which computes in `keras.config.floatx()`),
        whose mean is taken. A softmax or sigmoid at the model's end that a named cross entropy
        takes itself is taken off.
      valid_data: (inputs, targets).
      regularizer: From weights and hyperparameters to what is added to the training loss.
      training: Whether the training loss runs the model in training mode. Normalisation layers
        with batch statistics have no second derivative in TensorFlow and are refused by `Problem`;
        with False they use their moving statistics (and dropout is off).
      ignore_overrides: Whether the model may override `train_step` and `compute_loss`, which are
        not run.

    Returns:
      `train_loss(weights, hyperparameters, step, batch, seed)`, which needs `Problem(batches=...)`
      that returns (inputs, targets); and `valid_loss(weights, hyperparameters)`.

    Raises:
      ValueError: If the model is not built, has constraints or asks for something else that would
        be left out, or the loss is not known; when the losses are traced, if the model has losses
        of its own, such as a layer's `kernel_regularizer`, or outputs that the loss can't compare.
    """
    keras_models.get_parameters(model)  # checks it
    keras_contracts.check(model, ignore_overrides)
    keras_contracts.check_unconstrained(model, "the dynamics of hypergradients")
    paths = [variable.path for variable in model.trainable_variables]
    is_own = isinstance(loss, (str, custom_op.losses.Loss))
    own, required = natural_outputs.resolve(loss) if is_own else (None, None)
    activation = None if own is None else activations.activation_of(own)

    def compare(values, state, inputs, targets, mode):
        called = keras_call.call(model, values, state, inputs, training=mode, advice=_ADVICE)
        if own is None:
            return tf.reduce_mean(loss(targets, called.outputs))
        outputs = called.outputs
        if activation is not None:
            outputs = natural_outputs.undone(
                outputs, activation, required is not None, repr(model.name)
            )
        masked = {} if called.mask is None else {"mask": called.mask}
        return own.value(outputs, targets, **masked)

    # What an output comes from is seen in a graph only.
    traced = tf.function(compare, autograph=False)

    def measure(weights, inputs, targets, state, mode):
        if set(weights) != set(paths):
            raise ValueError(f"Expected weights for {sorted(paths)}, got {sorted(weights)}.")
        eager = activation is not None and tf.executing_eagerly()
        values = [weights[path] for path in paths]
        return (traced if eager else compare)(values, state, inputs, targets, mode)

    def train_loss(weights, hyperparameters, step, batch, seed):
        inputs, targets = tf.nest.map_structure(tf.convert_to_tensor, tuple(batch))
        state = _state(model, seed, step)
        value = measure(weights, inputs, targets, state, training)
        return value if regularizer is None else value + regularizer(weights, hyperparameters)

    def valid_loss(weights, hyperparameters):
        inputs, targets = tf.nest.map_structure(tf.convert_to_tensor, tuple(valid_data))
        state = [tf.convert_to_tensor(variable) for variable in model.non_trainable_variables]
        return measure(weights, inputs, targets, state, False)

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
