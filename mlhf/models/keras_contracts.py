"""What a Keras model asks of its training besides a loss is honoured, or refused by name.

`keras_call` honours the training mode and everything else around `call`. Constraints project their
variables after every step, as in Keras' optimizers. What can't be honoured is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from mlhf import keras_internals
from mlhf.checks import parameter_names


def check(model: Any, ignore_overrides: bool = False) -> None:
    """Checks that a model asks for nothing that would be left out.

    Args:
      model: A `keras.Model`.
      ignore_overrides: Whether it may override `train_step` and `compute_loss`.

    Raises:
      ValueError: If it computes in float16, is quantized, has variables that Keras overwrites with
        their gradients, trains by a method of its own, recomputes its layers (`RematScope`), or
        belongs to another backend.
    """
    import keras

    name = repr(model.name)
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            f"Expected Keras with the TensorFlow backend, got {keras.config.backend()!r}: set the "
            "environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )
    if not ignore_overrides:
        for method in ("train_step", "compute_loss"):
            if getattr(type(model), method) is not getattr(keras.Model, method):
                raise ValueError(
                    f"Expected a model that fit trains by its loss alone, got {name}, whose class "
                    f"{type(model).__name__} overrides {method}, which would not run. Give a "
                    "plain keras.Model, or mlhf.Objective(..., ignore_overrides=True) where the "
                    "loss given is all there is to it, as inside that train_step."
                )
    for layer in keras_internals.layers_of(model):
        if layer.quantization_mode is not None:
            raise ValueError(
                f"Expected a model that is not quantized, got {name} with the layer "
                f"{layer.name!r} in {layer.quantization_mode}, whose rounding has no derivative; "
                "train before quantizing."
            )
        if layer.compute_dtype == "float16":
            raise ValueError(
                f"Expected a model that computes in float32, float64 or bfloat16, got {name} with "
                f"the layer {layer.name!r} in float16, where gradients and curvature underflow "
                "(fit scales the loss for it, which does not help a curvature); use the policy "
                '"mixed_bfloat16".'
            )
        if keras_internals.is_recomputed(layer):
            raise ValueError(
                f"Expected a model without keras.RematScope, got {name} with the layer "
                f"{layer.name!r}, whose derivative Keras hides in a custom gradient; make the "
                "layers outside the scope."
            )
    overwritten = [
        variable.path
        for variable in model.trainable_variables
        if getattr(variable, "overwrite_with_gradient", False)
    ]
    if overwritten:
        raise ValueError(
            f"Expected variables that a step moves, got {overwritten} of {name}, which Keras "
            "overwrites with their gradients (float8 training); use a policy without float8."
        )


def constraints_of(model: Any) -> dict[str, Callable[..., Any]]:
    """Returns the constraints of a model's trainable variables (NonNeg, MaxNorm, ...), by path."""
    return {
        variable.path: variable.constraint
        for variable in model.trainable_variables
        if getattr(variable, "constraint", None) is not None
    }


def projected(network: Callable[..., Any], parameters: Any) -> Any:
    """Returns a step's parameters, projected as the constraints of a Keras model demand.

    Args:
      network: The function of `mlhf.models.keras_models.as_network`, or any other.
      parameters: The parameters after a step.
    """
    constraints: Mapping[str, Callable[..., Any]] = getattr(network, "constraints", {})
    if not constraints:
        return parameters
    projected = dict(parameters)
    for path, constraint in constraints.items():
        name = parameter_names.find(path, parameters)
        if name is not None:
            value = parameters[name]
            projected[name] = tf.cast(constraint(value), value.dtype)
    return projected


def check_unconstrained(model: Any, what: str) -> None:
    """Checks that a model has no constraints.

    Args:
      model: A `keras.Model`.
      what: The steps that would ignore them, a plural noun for the message.

    Raises:
      ValueError: If it has any.
    """
    constrained = sorted(constraints_of(model))
    if constrained:
        raise ValueError(
            f"Expected a model without constraints, got {model.name!r} with constraints on "
            f"{constrained} (kernel_constraint and the like), which {what} do not keep; make the "
            "layers without them."
        )
