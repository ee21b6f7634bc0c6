"""Checks of a step's arguments, before anything is traced."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures
from mlhf.checks.arguments import check_parameters
from mlhf.checks.structures import kind
from mlhf.models import keras_models
from mlhf.objective import Objective
from mlhf.optimizers.settings import is_variable

_LAYOUT = "_mlhf_layout"


def check_objective(objective: Any) -> None:
    """Raises TypeError unless it is given an objective."""
    if isinstance(objective, Objective):
        return
    if callable(objective):
        raise TypeError(
            f"Expected an mlhf.Objective to step on, got {objective!r}: a step needs the network, "
            "the loss and the batch, mlhf.Objective(network, loss, inputs, targets)."
        )
    raise TypeError(
        f"Expected an mlhf.Objective to step on, got {kind(objective)}: "
        "step(mlhf.Objective(network, loss, inputs, targets), parameters, state)."
    )


def as_parameters(parameters: Any) -> Any:
    """Returns parameters as tensors; variables and arrays are read here.

    Raises:
      TypeError: If they are anything else.
    """
    if keras_models.is_model(parameters):
        raise TypeError(
            f"Expected parameters, got the Keras model {parameters.name!r}: give "
            "mlhf.get_parameters(model), and after the step mlhf.set_parameters(model, "
            "step.parameters)."
        )
    if _is_step(parameters):
        raise TypeError("Expected parameters, got a Step: give its .parameters.")
    parameters = as_tensors(parameters)
    for place, leaf in enumerate(tf.nest.flatten(parameters)):
        if not tf.is_tensor(leaf):
            raise TypeError(
                f"Expected parameters as a structure of tensors, got {kind(leaf)} for "
                f"{structures.leaf_names(parameters)[place]!r}."
            )
    return parameters


def as_tensors(structure: Any) -> Any:
    """Returns a structure with its variables and arrays as tensors; other leaves are unchanged."""
    leaves = tf.nest.flatten(structure)
    if not any(_is_readable(leaf) for leaf in leaves):
        return structure
    read = [tf.convert_to_tensor(leaf) if _is_readable(leaf) else leaf for leaf in leaves]
    return tf.nest.pack_sequence_as(structure, read)


def _is_readable(leaf: Any) -> bool:
    return isinstance(leaf, (np.ndarray, np.generic)) or is_variable(leaf)


def check_parameters_of_step(parameters: Any) -> None:
    """Raises ValueError for parameters that no optimizer can train."""
    check_parameters(parameters)


def refuse_state(optimizer: str, state: Any, like: Any, parameters: Any) -> None:
    """Raises an error that says what is wrong with a state.

    Args:
      optimizer: The name of the optimizer's class.
      state: The state, which is not like `like`.
      like: The specs of a state of such parameters.
      parameters: The parameters of the step.

    Raises:
      TypeError: If it is not a state of this optimizer.
      ValueError: If it is the state of other parameters.
    """
    state_type = type(like).__name__
    if _is_step(state):
        raise TypeError(
            f"Expected the {state_type} of a {optimizer} as state, got a Step: give its .state."
        )
    if type(state) is not type(like):
        raise TypeError(
            f"Expected the {state_type} of a {optimizer} as state, from its init(parameters) or "
            f"the step before, got {kind(state)}."
        )
    shapes = structures.describe(parameters)
    try:
        tf.nest.assert_same_structure(state, like)
    except (ValueError, TypeError):
        raise ValueError(
            f"Expected a {state_type} of parameters with the shapes {shapes}, got one of "
            "another structure: a state is of the parameters that init was given."
        ) from None
    pairs = zip(
        structures.leaf_names(like), tf.nest.flatten(state), tf.nest.flatten(like), strict=True
    )
    for name, leaf, spec in pairs:
        if not tf.is_tensor(leaf):
            raise TypeError(f"Expected a tensor for {name} of the {state_type}, got {kind(leaf)}.")
        if leaf.shape != spec.shape or leaf.dtype != spec.dtype:
            raise ValueError(
                f"Expected a {state_type} of parameters with the shapes {shapes}, whose {name} "
                f"is {_described(spec)}, got one whose {name} is {_described(leaf)}: a state is of "
                "the parameters that init was given."
            )
    raise ValueError(
        f"Expected a {state_type} of parameters with the shapes {shapes}, got one of another "
        "structure."
    )


def note_layout(state: Any, parameters: Any) -> None:
    """Marks a state's flat vectors with their parameters' shapes: many have the same length."""
    vectors = _flat_vectors(state)
    shapes = _shapes(parameters) if vectors else None
    for vector in vectors:
        setattr(vector, _LAYOUT, shapes)


def check_layout(state: Any, parameters: Any) -> None:
    """Checks that a state's flat vectors are not marked as those of other parameters.

    Files and users' functions lose the mark.

    Raises:
      ValueError: If they are.
    """
    for vector in _flat_vectors(state):
        noted, shapes = getattr(vector, _LAYOUT, None), _shapes(parameters)
        if noted is not None and noted != shapes:
            raise ValueError(
                f"Expected the state of parameters of the shapes {_text(shapes)}, got that of "
                f"parameters of the shapes {_text(noted)}: a state is of the parameters that init "
                "was given."
            )


def _flat_vectors(state: Any) -> list[tf.Tensor]:
    vectors = [getattr(state, name, None) for name in ("solution", "residual")]
    return [vector for vector in vectors if tf.is_tensor(vector)]


def _shapes(parameters: Any) -> list[tf.TensorShape]:
    return [leaf.shape for leaf in tf.nest.flatten(parameters)]


def _text(shapes: list[tf.TensorShape]) -> str:
    return ", ".join(str(shape) for shape in shapes)


def _is_step(thing: Any) -> bool:
    return getattr(thing, "_fields", None) == ("parameters", "state", "model_state", "metrics")


def _described(leaf: Any) -> str:
    return f"{leaf.dtype.name} {leaf.shape}"
