"""Losses of a Keras model as pure functions, for training that is computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

import custom_op
from custom_op.losses import activations, keras_names
from custom_op.losses import targets as loss_targets
from mlhf.checks.structures import kind
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
    layers draw from `seed` and `step`, the same in both passes; moving statistics keep the values
    that they have in the model.

    Args:
      model: A built `keras.Model`.
      loss: A name or an object of `custom_op.losses`; the name of a Keras loss (`"mse"`, or
        `"sparse_categorical_crossentropy"` for a model that ends in a softmax); or a Keras loss
        object (which computes in `keras.config.floatx()`) or a function of (targets, outputs),
        whose mean is taken as `fit` takes it: targets [N] and outputs [N, 1] get one shape, and a
        mask of the outputs leaves terms out. Where a named cross entropy applies a softmax or
        sigmoid itself, the one at the model's end is removed.
      valid_data: (inputs, targets).
      regularizer: A function from weights and hyperparameters to a scalar that is added to the
        training loss.
      training: Whether the training loss runs the model in training mode. Normalisation layers
        with batch statistics have no second derivative in TensorFlow and are refused by `Problem`;
        if False, they use their moving statistics (and dropout is off).
      ignore_overrides: Whether the model may override `train_step` and `compute_loss`, which are
        not run.

    Returns:
      `train_loss(weights, hyperparameters, step, batch, seed)`, which needs `Problem(batches=...)`
      that returns (inputs, targets); and `valid_loss(weights, hyperparameters)`.

    Raises:
      ValueError: If the model is not built, has constraints or asks for something else that would
        be left out, or the loss is unknown; when the losses are traced, if the model has its own
        losses, such as a layer's `kernel_regularizer`, or outputs that the loss can't compare.
      TypeError: If the loss is neither a name nor can be called with (targets, outputs).
    """
    keras_models.get_parameters(model)  # raises for a model that is not built
    keras_contracts.check(model, ignore_overrides)
    keras_contracts.check_unconstrained(model, "the dynamics of hypergradients")
    paths = [variable.path for variable in model.trainable_variables]
    own, required, compare_as_fit = None, None, None
    if isinstance(loss, custom_op.losses.Loss) or _is_known_name(loss):
        own, required = natural_outputs.resolve(loss)
    else:
        compare_as_fit = _as_compiled(loss)
    activation = None if own is None else activations.activation_of(own)

    def compare(
        values: Sequence[tf.Tensor],
        state: Sequence[tf.Tensor],
        inputs: Any,
        targets: Any,
        mode: bool,
    ) -> tf.Tensor:
        called = keras_call.call(model, values, state, inputs, training=mode, advice=_ADVICE)
        if compare_as_fit is not None:
            return compare_as_fit(targets, called.outputs, called.mask)
        outputs = called.outputs
        if activation is not None:
            outputs = natural_outputs.undone(
                outputs, activation, required is not None, repr(model.name)
            )
        assert own is not None
        masked = {} if called.mask is None else {"mask": called.mask}
        return own.value(outputs, targets, **masked)

    # Only a graph shows which operation an output comes from.
    traced = tf.function(compare, autograph=False)

    def measure(
        weights: Any, inputs: Any, targets: Any, state: Sequence[tf.Tensor], mode: bool
    ) -> tf.Tensor:
        if set(weights) != set(paths):
            raise ValueError(f"Expected weights for {sorted(paths)}, got {sorted(weights)}.")
        eager = activation is not None and tf.executing_eagerly()
        values = [weights[path] for path in paths]
        with loss_targets.spoken_of():
            return (traced if eager else compare)(values, state, inputs, targets, mode)

    def train_loss(
        weights: Any, hyperparameters: Any, step: tf.Tensor, batch: Any, seed: tf.Tensor
    ) -> tf.Tensor:
        inputs, targets = tf.nest.map_structure(tf.convert_to_tensor, tuple(batch))
        state = _state(model, seed, step)
        value = measure(weights, inputs, targets, state, training)
        return value if regularizer is None else value + regularizer(weights, hyperparameters)

    def valid_loss(weights: Any, hyperparameters: Any) -> tf.Tensor:
        inputs, targets = tf.nest.map_structure(tf.convert_to_tensor, tuple(valid_data))
        state = [tf.convert_to_tensor(variable) for variable in model.non_trainable_variables]
        return measure(weights, inputs, targets, state, False)

    return train_loss, valid_loss


def _is_known_name(loss: Any) -> bool:
    """Whether a loss is a name, but not of a Keras loss that `custom_op.losses` does not have."""
    import keras

    if not isinstance(loss, str):
        return False
    if loss in custom_op.losses.names() or keras_names.meaning(loss) is not None:
        return True
    try:
        return keras.losses.get(loss) is None
    except ValueError:
        return True


def _as_compiled(loss: Any) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor | None], tf.Tensor]:
    """Returns the mean loss of (targets, outputs, mask), as `compile(loss=...)` takes it.

    Args:
      loss: A Keras loss, its class or its name, or a function of (targets, outputs).

    Raises:
      TypeError: If the loss is none of these.
    """
    import keras

    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, type) and issubclass(loss, keras.losses.Loss):
        loss = loss()
    if isinstance(loss, (type, keras.metrics.Metric)) or not callable(loss):
        raise TypeError(
            "Expected a loss: a name, an object of custom_op.losses or keras.losses, or a function "
            f"of (targets, outputs), got {kind(loss)}."
        )

    def of_object(targets: tf.Tensor, outputs: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        del mask  # the object finds the outputs' mask itself
        return tf.reduce_mean(loss(targets, outputs))

    def of_function(targets: tf.Tensor, outputs: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        if targets.dtype.is_floating:
            targets = tf.cast(targets, outputs.dtype)
        terms = tf.convert_to_tensor(loss(*_of_one_rank(targets, outputs)))
        if mask is None:
            return tf.reduce_mean(terms)
        if terms.shape.rank is None or terms.shape.rank < mask.shape.rank:
            raise ValueError(
                "Expected a loss that returns a term for each place of the outputs' mask, "
                f"{mask.shape}, got one that returns {terms.shape}: without them, what the mask "
                "hides can't be left out."
            )
        present = tf.cast(mask, terms.dtype)
        present = tf.reshape(
            present, tf.concat([tf.shape(mask), [1] * (terms.shape.rank - mask.shape.rank)], 0)
        )
        present = tf.broadcast_to(present, tf.shape(terms))
        return tf.math.divide_no_nan(tf.reduce_sum(terms * present), tf.reduce_sum(present))

    return of_object if isinstance(loss, keras.losses.Loss) else of_function


def _of_one_rank(targets: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns targets and outputs of one rank.

    [N] beside [N, 1] becomes [N, 1]; other shapes [..., 1] beside one axis less lose the last axis.
    """
    if targets.shape.rank is None or outputs.shape.rank is None:
        return targets, outputs
    difference = targets.shape.rank - outputs.shape.rank
    larger, smaller = (targets, outputs) if difference > 0 else (outputs, targets)
    if abs(difference) == 1 and larger.shape[-1] == 1:
        if smaller.shape.rank == 1:
            smaller = tf.expand_dims(smaller, -1)
        else:
            larger = tf.squeeze(larger, -1)
        return (larger, smaller) if difference > 0 else (smaller, larger)
    return targets, outputs


def _state(model: Any, seed: tf.Tensor, step: tf.Tensor) -> list[tf.Tensor]:
    """Returns the non-trainable variables in a step; random generators are seeded by the step."""
    state = []
    for number, variable in enumerate(model.non_trainable_variables):
        value = tf.convert_to_tensor(variable)
        if "seed_generator_state" in variable.path or "seed_generator" in variable.path:
            # The generators of one model must draw different numbers.
            pair = tf.stack([seed * 1009 + number, step])
            value = tf.cast(tf.reshape(pair, value.shape), value.dtype)
        state.append(value)
    return state
