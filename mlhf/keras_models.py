"""Keras models as pure functions of their parameters and their state."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

_NETWORKS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def is_model(thing: Any) -> bool:
    """Returns whether something is a Keras model, without importing Keras for those who do not."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(thing, keras.Model)


def parameters_of(thing: Any) -> Any:
    """Returns a Keras model's parameters, and a structure of tensors as it is."""
    return get_parameters(thing) if is_model(thing) else thing


def get_parameters(model: Any) -> dict[str, tf.Tensor]:
    """Returns a Keras model's trainable variables as tensors.

    Args:
      model: A built `keras.Model`.

    Returns:
      A dictionary from `variable.path` to the value.

    Raises:
      ValueError: If the model is not built or two variables have one path.
    """
    _check_built(model)
    found = {
        variable.path: tf.convert_to_tensor(variable) for variable in model.trainable_variables
    }
    if len(found) != len(model.trainable_variables):
        paths = [variable.path for variable in model.trainable_variables]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        raise ValueError(f"Variables share the paths {twice}; give their layers different names.")
    return found


def set_parameters(model: Any, parameters: dict[str, tf.Tensor]) -> None:
    """Writes parameters back into a Keras model.

    Args:
      model: The model that `get_parameters` read.
      parameters: What it returned, or a step's new parameters.

    Raises:
      ValueError: If the paths are not the model's.
    """
    variables = {variable.path: variable for variable in model.trainable_variables}
    if set(variables) != set(parameters):
        raise ValueError(f"Expected parameters for {sorted(variables)}, got {sorted(parameters)}.")
    for path, variable in variables.items():
        variable.assign(parameters[path])


def get_model_state(model: Any) -> dict[str, tf.Tensor] | None:
    """Returns a model's non-trainable variables as tensors; None if it has none."""
    _check_built(model)
    if not model.non_trainable_variables:
        return None
    return {
        f"{number:04d}/{variable.path}": tf.convert_to_tensor(variable)
        for number, variable in enumerate(model.non_trainable_variables)
    }


def set_model_state(model: Any, model_state: dict[str, tf.Tensor] | None) -> None:
    """Writes a state, as a step returns it, back into a Keras model.

    Args:
      model: The model that the state is of.
      model_state: What `get_model_state` or a step returned.

    Raises:
      ValueError: If it is not this model's.
    """
    variables = model.non_trainable_variables
    model_state = model_state or {}
    if len(model_state) != len(variables):
        raise ValueError(f"Expected a state of {len(variables)} variables, got {len(model_state)}.")
    for variable, name in zip(variables, sorted(model_state), strict=True):
        variable.assign(model_state[name])


def as_network(model: Any) -> Callable:
    """Returns a model as a function; the same one at every call, so that nothing retraces.

    Args:
      model: A built `keras.Model`.

    Returns:
      `(parameters, inputs) -> outputs` for a model without non-trainable variables, otherwise
      `(parameters, model_state, inputs) -> (outputs, new model_state)`, in training mode.

    Raises:
      ValueError: If the model is not built; at its first call, if it has losses of its own.
    """
    _check_built(model)
    paths = [variable.path for variable in model.trainable_variables]
    # Freezing a layer makes it another function.
    frozen = [variable.path for variable in model.non_trainable_variables]
    # A normalisation without weights is another function too, and moves none between the lists.
    trainable = [layer.trainable for layer in model._flatten_layers()]
    made_for, network = _NETWORKS.get(model, (None, None))
    if made_for != (paths, frozen, trainable):
        # The closure must not keep the model alive through the dictionary's value.
        reference = weakref.ref(model)

        def call(parameters, state, inputs):
            if set(parameters) != set(paths):
                raise ValueError(
                    f"Expected parameters for {sorted(paths)}, got {sorted(parameters)}. Two "
                    "models of one architecture have the same paths once they and their layers "
                    "are given names."
                )
            model = reference()
            if model is None:
                raise ValueError("The Keras model is gone; keep a reference to it while it trains.")
            outputs, new, own_losses = model.stateless_call(
                [parameters[path] for path in paths],
                state,
                inputs,
                training=True,
                return_losses=True,
            )
            if own_losses:
                raise ValueError(
                    f"Expected a model without losses of its own, got {model.name!r} with "
                    f"{len(own_losses)} of them (a layer's kernel_regularizer, "
                    "activity_regularizer or add_loss), which would stand neither in the gradient "
                    "nor in the curvature. Take them out of the layers, and give "
                    "Objective(regularizer=mlhf.L2(...)) for weight decay."
                )
            return outputs, new

        def stateless(parameters, inputs):
            return call(parameters, [], inputs)[0]

        def stateful(parameters, model_state, inputs):
            names = sorted(model_state)
            outputs, new = call(parameters, [model_state[name] for name in names], inputs)
            return outputs, dict(zip(names, new, strict=True))

        network = stateful if frozen else stateless
        _NETWORKS[model] = ((paths, frozen, trainable), network)
    return network


def _check_built(model: Any) -> None:
    if not model.built or not model.variables:
        raise ValueError(
            f"Expected a built model with variables, got {model.name!r} without; call it on a "
            "batch once, or give it an Input."
        )
