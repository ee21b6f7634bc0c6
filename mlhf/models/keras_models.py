"""Keras models as pure functions of their parameters and their state."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

import custom_op
from custom_op.losses import activations
from mlhf import keras_internals
from mlhf.checks import parameter_names
from mlhf.checks.structures import check_like, kind
from mlhf.models import keras_call, keras_contracts, natural_outputs

_ADVICE = (
    "Take them out of the layers, and give Objective(regularizer=mlhf.L2(...)) for weight decay."
)
_MASKS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_NETWORKS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def is_model(thing: Any) -> bool:
    """Returns whether an object is a Keras model, without importing Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(thing, keras.Model)


def parameters_of(thing: Any) -> Any:
    """Returns a Keras model's parameters; a structure of tensors is returned as it is."""
    return get_parameters(thing) if is_model(thing) else thing


def get_parameters(model: Any) -> dict[str, tf.Tensor]:
    """Returns a Keras model's trainable variables as tensors.

    Args:
      model: A built `keras.Model`.

    Returns:
      A dictionary from `variable.path` to the value.

    Raises:
      ValueError: If the model is not built, or two variables have the same path.
    """
    _check_built(model)
    parameters = {
        variable.path: tf.convert_to_tensor(variable) for variable in model.trainable_variables
    }
    if len(parameters) != len(model.trainable_variables):
        paths = [variable.path for variable in model.trainable_variables]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        raise ValueError(f"Variables share the paths {twice}; give their layers different names.")
    return parameters


def set_parameters(model: Any, parameters: dict[str, tf.Tensor]) -> None:
    """Writes parameters back into a Keras model.

    Args:
      model: The model that `get_parameters` read.
      parameters: The values that it returned, or a step's new parameters.

    Raises:
      ValueError: If names or shapes are not the model's.
      TypeError: If the model or the parameters are of another type.
    """
    _check_built(model)
    variables = {variable.path: variable for variable in model.trainable_variables}
    parameters = parameter_names.with_names(parameters, list(variables))
    remedy = "give what get_parameters(model) returned, or a step's parameters"
    values = check_like("parameters", parameters, variables, remedy)
    for path, value in zip(sorted(variables), values, strict=True):
        variables[path].assign(value)


def get_model_state(model: Any) -> dict[str, tf.Tensor] | None:
    """Returns a Keras model's non-trainable variables as tensors; None if it has none."""
    _check_built(model)
    if not model.non_trainable_variables:
        return None
    return {
        f"{number:04d}/{variable.path}": tf.convert_to_tensor(variable)
        for number, variable in enumerate(model.non_trainable_variables)
    }


def set_model_state(model: Any, model_state: dict[str, tf.Tensor] | None) -> None:
    """Writes a model state back into a Keras model.

    Args:
      model: The model that the state belongs to.
      model_state: The state that `get_model_state` or a step returned.

    Raises:
      ValueError: If names or shapes are not the model's.
      TypeError: If the model or the state is of another type.
    """
    _check_built(model)
    variables = model.non_trainable_variables
    model_state = {} if model_state is None else model_state
    if not isinstance(model_state, Mapping) or len(model_state) != len(variables):
        found = len(model_state) if isinstance(model_state, Mapping) else kind(model_state)
        raise ValueError(f"Expected a state of {len(variables)} variables, got {found}.")
    # Matched by number: a model that was built again has other paths.
    state = [model_state[name] for name in sorted(model_state)]
    remedy = "give what get_model_state(model) returned, or a step's model_state"
    values = check_like("a model_state", state, list(variables), remedy)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def as_network(
    model: Any,
    loss: custom_op.losses.Loss | None = None,
    activated: bool = False,
    ignore_overrides: bool = False,
    masked: bool = False,
) -> Callable[..., Any]:
    """Returns a model as a function, the same one at every call, so that nothing is traced again.

    The model is called as `fit` calls it. A softmax, sigmoid or exponential at its end that the
    loss applies itself is taken off: the function returns its input.

    Args:
      model: A built `keras.Model`.
      loss: The loss of its outputs; None for outputs as they are.
      activated: Whether the loss, as the user gave it, compares outputs that passed its activation.
      ignore_overrides: Whether the model may override `train_step` and `compute_loss`.
      masked: Whether the caller leaves out of the loss what a mask on the outputs hides
        (`mask_of_outputs`).

    Returns:
      `(parameters, inputs) -> outputs` for a model without non-trainable variables, otherwise
      `(parameters, model_state, inputs) -> (outputs, new model_state)`, in training mode. Its
      attribute `constraints` maps variables' paths to their constraints, and `is_masked` is the
      argument `masked`.

    Raises:
      ValueError: If the model is not built or asks for something that would be left out; at its
        first call, if it has losses of its own, a mask on its outputs, or outputs that the loss
        can't compare.
    """
    _check_built(model)
    keras_contracts.check(model, ignore_overrides)
    paths = [variable.path for variable in model.trainable_variables]
    # With a layer frozen, the model is another function.
    frozen = [variable.path for variable in model.non_trainable_variables]
    # So it is with a frozen normalisation that has no weights to move between the lists.
    trainable = [layer.trainable for layer in keras_internals.layers_of(model)]
    constraints = keras_contracts.constraints_of(model)
    made_for = paths, frozen, trainable, constraints
    activation = None if loss is None else activations.activation_of(loss)
    cached_for, networks = _NETWORKS.get(model, (None, {}))
    if cached_for != made_for:
        networks = {}
        _NETWORKS[model] = made_for, networks
    variant = activation, activated, masked
    if variant not in networks:
        networks[variant] = _network(model, paths, bool(frozen), *variant)
        networks[variant].constraints = constraints
        networks[variant].is_masked = masked
    return networks[variant]


def mask_of_outputs(model: Any, model_state: Any, inputs: Any) -> tf.Tensor | None:
    """Returns the mask on a model's outputs, which `fit` leaves out of the loss; None for none.

    Args:
      model: A built `keras.Model`.
      model_state: Its state, as from `get_model_state`.
      inputs: The inputs of a batch.
    """
    if not keras_internals.makes_masks(model):
        return None
    traced = _MASKS.get(model)
    if traced is None:
        reference = weakref.ref(model)

        def find(values: Any, state: Any, inputs: Any) -> Any:
            # Only what the mask depends on runs, in a graph.
            return keras_call.call(reference(), values, state, inputs, training=True).mask

        traced = _MASKS[model] = tf.function(find, autograph=False)
    state = {} if model_state is None else model_state
    values = [tf.convert_to_tensor(variable) for variable in model.trainable_variables]
    mask: tf.Tensor | None = traced(
        values, [state[name] for name in sorted(state)], tf.nest.map_structure(tf.identity, inputs)
    )
    return mask


def outputs_of(
    model: Any,
    values: Sequence[tf.Tensor],
    state: Sequence[tf.Tensor],
    inputs: Any,
    loss: custom_op.losses.Loss | None = None,
    *,
    training: bool = False,
) -> tf.Tensor:
    """Returns a model's outputs, by default in inference mode, as a loss compares them.

    Args:
      model: A built `keras.Model`.
      values: The values of its trainable variables, in their order.
      state: The values of its non-trainable variables, in their order.
      inputs: The inputs of a batch.
      loss: The loss; an activation that it applies itself is taken off the outputs.
      training: Whether to call it in training mode.

    Raises:
      ValueError: If a function of `as_network` would raise it.
    """
    activation = None if loss is None else activations.activation_of(loss)
    if activation is not None and tf.executing_eagerly():
        # Only a graph shows where an output comes from.
        within = functools.partial(outputs_of, model, loss=loss, training=training)
        return tf.function(within, autograph=False)(list(values), list(state), inputs)
    called = keras_call.call(model, values, state, inputs, training=training, advice=_ADVICE)
    if activation is None:
        return called.outputs
    return natural_outputs.undone(called.outputs, activation, False, repr(model.name))


def _network(
    model: Any,
    paths: list[str],
    stateful: bool,
    activation: str | None,
    activated: bool,
    masked: bool,
) -> Callable[..., Any]:
    """Makes the function that stands for a model."""
    # The closure must not keep the model alive through the dictionary's value.
    reference = weakref.ref(model)

    def call(
        values: Sequence[tf.Tensor], state: Sequence[tf.Tensor], inputs: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        model = reference()
        if model is None:
            raise ValueError("The Keras model is gone; keep a reference to it while it trains.")
        called = keras_call.call(model, values, state, inputs, training=True, advice=_ADVICE)
        if called.mask is not None and not masked:
            raise ValueError(
                f"Expected a model whose outputs carry no mask, got {model.name!r}: fit leaves the "
                "terms out of the loss that a mask of Embedding(mask_zero=True) or Masking hides. "
                "Give hidden places a label that SoftmaxCrossEntropy(ignore_index=...) of "
                "custom_op.losses leaves out, and end the model in a layer that ends its mask."
            )
        outputs = called.outputs
        if activation is not None:
            outputs = natural_outputs.undone(outputs, activation, activated, repr(model.name))
        return outputs, called.state

    # Only a graph shows where an output comes from.
    traced = tf.function(call, autograph=False)

    def run(
        parameters: Mapping[str, tf.Tensor], state: Sequence[tf.Tensor], inputs: Any
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        # A model that was loaded has other paths than before it was saved.
        parameters = parameter_names.with_names(parameters, paths)
        if set(parameters) != set(paths):
            raise ValueError(
                f"Expected parameters for {sorted(paths)}, got {sorted(parameters)}. Two "
                "models of one architecture have the same paths once they and their layers "
                "are given names."
            )
        values = [parameters[path] for path in paths]
        eager = activation is not None and tf.executing_eagerly()
        return (traced if eager else call)(values, state, inputs)

    def stateless_network(parameters: Mapping[str, tf.Tensor], inputs: Any) -> tf.Tensor:
        return run(parameters, [], inputs)[0]

    def stateful_network(
        parameters: Mapping[str, tf.Tensor], model_state: Mapping[str, tf.Tensor], inputs: Any
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        names = sorted(model_state)
        outputs, new = run(parameters, [model_state[name] for name in names], inputs)
        return outputs, dict(zip(names, new, strict=True))

    return stateful_network if stateful else stateless_network


def check_model(model: Any) -> None:
    """Raises TypeError unless it is given a Keras model."""
    if not is_model(model):
        raise TypeError(f"Expected a Keras model, got {kind(model)}.")


def _check_built(model: Any) -> None:
    check_model(model)
    if not model.built or not model.variables:
        raise ValueError(
            f"Expected a built model with variables, got {model.name!r} without; call it on a "
            "batch once, or give it an Input."
        )
