"""Calls a Keras model as `fit` does, as a pure function of its variables' values.

`Model.stateless_call` calls `Model.call` itself and skips what Keras does around it: the call
context, through which layers inside a subclassed model learn that they train; the casting of
inputs; masks; the choice of the arguments that `call` takes. Here none of it is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf import keras_internals


class Called(NamedTuple):
    """The result of calling a model."""

    outputs: Any  # a tensor; of `call_with_all_outputs` a structure of them
    state: list[tf.Tensor]  # the non-trainable variables' values after the call
    mask: Any  # the outputs' mask, or None: `fit` leaves out of the loss what it hides


def call(
    model: Any,
    values: Sequence[tf.Tensor],
    state: Sequence[tf.Tensor],
    inputs: Any,
    *,
    training: bool,
    advice: str = "",
    written: dict[int, list[tf.Tensor]] | None = None,
) -> Called:
    """Calls a model with one output with given values of its variables, without changing them.

    Args:
      model: A built `keras.Model` with one output.
      values: The values of `model.trainable_variables`, in their order.
      state: The values of `model.non_trainable_variables`, in their order.
      inputs: The inputs of a batch as `fit` takes them: a tensor or a structure of tensors.
      training: Whether to call it in training mode. As in `fit`, a model whose `call` takes no
        `training` is not told, and its layers follow their defaults.
      advice: What to do about losses of the model's own; the last sentence of the error.
      written: A dictionary to which all values that the call assigns are added, by the variables'
        `id`.

    Returns:
      The outputs, the new state and the outputs' mask.

    Raises:
      ValueError: If the model has losses of its own or several outputs, or if the call writes into
        trainable variables or into variables that are not the model's own.
    """
    called = call_with_all_outputs(
        model, values, state, inputs, training=training, advice=advice, written=written
    )
    outputs = _single(model, called.outputs)
    return called._replace(outputs=outputs, mask=tf.nest.flatten(called.mask)[0])


def call_with_all_outputs(
    model: Any,
    values: Sequence[tf.Tensor],
    state: Sequence[tf.Tensor],
    inputs: Any,
    *,
    training: bool,
    advice: str = "",
    written: dict[int, list[tf.Tensor]] | None = None,
    penalties: int = 0,
) -> Called:
    """Calls a model as `call` does, with any structure of outputs, and of masks.

    Args:
      model: A built `keras.Model`.
      values: As for `call`.
      state: As for `call`.
      inputs: As for `call`.
      training: As for `call`.
      advice: As for `call`.
      written: As for `call`.
      penalties: The number of losses of the model's own that the caller takes care of: those of
        `kernel_regularizer` and the like.

    Returns:
      The outputs, the new state and the outputs' masks.

    Raises:
      ValueError: As for `call`, except for several outputs.
    """
    import keras

    trainable, others = model.trainable_variables, model.non_trainable_variables
    pairs = [*zip(trainable, values, strict=True), *zip(others, state, strict=True)]
    arguments = {"training": training} if keras_internals.takes_training(model) else {}
    with keras.StatelessScope(state_mapping=pairs, collect_losses=True) as scope:
        updates = keras_internals.assignments(scope)
        before = [scope.get_current_value(variable) for variable in trainable]
        outputs = model(inputs, **arguments)
        own_losses = model.losses
        after = [scope.get_current_value(variable) for variable in trainable]
    if written is not None:
        for variable, value in updates:
            written.setdefault(id(variable), []).append(tf.convert_to_tensor(value))
    _check_kept(model, [variable for variable, _ in updates])
    if len(own_losses) > penalties:
        raise ValueError(
            f"Expected a model without losses of its own, got {model.name!r} with "
            f"{len(own_losses) - penalties} of them (a layer's kernel_regularizer, "
            "activity_regularizer or add_loss), which would stand neither in the gradient nor in "
            f"the curvature. {advice}"
        )
    moved = [
        variable.path
        for variable, old, new in zip(trainable, before, after, strict=True)
        if new is not old
    ]
    if moved and training:
        raise ValueError(
            "Expected a model whose call leaves its trainable variables alone, got "
            f"{model.name!r}, which writes into {moved} (as SpectralNormalization does): a step "
            "would take the gradient at other weights than Keras does. Use a layer that computes "
            "what it needs from its weights without assigning them."
        )
    mask = tf.nest.map_structure(keras_internals.mask_of, outputs)
    return Called(outputs, [scope.get_current_value(variable) for variable in others], mask)


def _check_kept(model: Any, variables: Sequence[Any]) -> None:
    """Raises ValueError if a call assigned variables that the model's state does not contain."""
    kept = {id(variable) for variable in [*model.variables, *model.metrics_variables]}
    # A layer's own metrics count calls; nothing depends on them.
    for layer in keras_internals.layers_of(model):
        kept.update(id(variable) for variable in layer.metrics_variables)
    lost = {id(v): v.path for v in variables if id(v) not in kept}
    if not lost:
        return
    stateful = [
        layer.name
        for layer in keras_internals.layers_of(model)
        if getattr(layer, "stateful", False)
    ]
    if stateful:
        raise ValueError(
            f"Expected a model whose state is in its variables, got {model.name!r} with the layers "
            f"{stateful} of stateful=True, whose states Keras does not list among them: they would "
            "stay what they are from step to step. Make these layers with stateful=False, or give "
            "them their states as inputs (initial_state=)."
        )
    raise ValueError(
        f"Expected a model whose state is in its variables, got {model.name!r}, which writes into "
        f"{sorted(lost.values())}: they would stay what they are from step to step. Let a layer "
        "have them as attributes (add_weight(trainable=False)); what draws random numbers without "
        "a seed of its own needs seed=keras.random.SeedGenerator(), an attribute too."
    )


def _single(model: Any, outputs: Any) -> tf.Tensor:
    flat = tf.nest.flatten(outputs)
    if len(flat) != 1 or not tf.is_tensor(flat[0]):
        raise ValueError(
            f"Expected a model with one output tensor, got {model.name!r} with "
            f"{tf.nest.map_structure(lambda part: getattr(part, 'shape', part), outputs)}: give a "
            "model of one of them, as in keras.Model(model.inputs, model.outputs[0])."
        )
    return flat[0]
