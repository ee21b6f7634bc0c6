"""Checks of an objective's network, of its inputs and of what it returns."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op import structures
from mlhf.checks.structures import kind


def check_network(network: Any) -> None:
    """Raises TypeError unless it is given a function or a Keras model."""
    keras = sys.modules.get("keras")
    if isinstance(network, type):
        raise TypeError(
            f"Expected a network, got the class {network.__name__}: make one of it, and if it is a "
            "Keras model, call that on a batch once."
        )
    if not callable(network):
        raise TypeError(
            f"Expected a network to call, got {network!r}: a function (parameters, inputs) -> "
            "outputs, or a built Keras model."
        )
    if (
        keras is not None
        and isinstance(network, keras.Layer)
        and not isinstance(network, keras.Model)
    ):
        raise TypeError(
            f"Expected a function or a built Keras model, got the layer {network.name!r}: put it "
            "into a keras.Sequential."
        )


def check_regularizer(regularizer: Any) -> None:
    """Raises TypeError unless it is given a regularizer or None."""
    methods = ("value", "gradient", "hessian_product")
    if regularizer is None:
        return
    missing = [name for name in methods if not callable(getattr(regularizer, name, None))]
    if missing or isinstance(regularizer, type):
        raise TypeError(
            f"Expected a regularizer with the methods {', '.join(methods)}, such as mlhf.L2(1e-4), "
            f"got {kind(regularizer)}."
        )


def as_tensors(what: str, structure: Any) -> Any:
    """Converts a structure of tensors, arrays and numbers to a structure of tensors.

    Args:
      what: The name of the structure in error messages.
      structure: The structure to convert.

    Returns:
      The structure of tensors.

    Raises:
      TypeError: If a leaf does not make a dense tensor.
    """
    return tf.nest.map_structure(lambda leaf: as_tensor(what, leaf), structure)


def as_tensor(what: str, leaf: Any) -> tf.Tensor:
    """Returns a tensor, an array or numbers as a tensor.

    Args:
      what: The name of the tensor in error messages.
      leaf: The tensor, array or numbers.

    Raises:
      TypeError: If it does not make a dense tensor.
    """
    if isinstance(leaf, tf.Tensor):
        return leaf
    sort = type(leaf).__name__
    if isinstance(leaf, tf.RaggedTensor):
        raise TypeError(f"Expected dense {what}, got a {sort}: pad it, {what}.to_tensor().")
    if isinstance(leaf, tf.SparseTensor):
        raise TypeError(f"Expected dense {what}, got a {sort}: give tf.sparse.to_dense of it.")
    if leaf is None or isinstance(leaf, tf.data.Dataset) or callable(leaf):
        hint = ": one step takes one batch of it" if isinstance(leaf, tf.data.Dataset) else ""
        raise TypeError(
            f"Expected {what} as a tensor or a structure of tensors, got {kind(leaf)}{hint}."
        )
    try:
        return tf.convert_to_tensor(leaf)
    except (ValueError, TypeError) as error:
        raise TypeError(f"Expected {what} that make a tensor, got {kind(leaf)}.") from error


def as_mask(mask: Any) -> tf.Tensor:
    """Returns a mask as a tensor of booleans.

    Args:
      mask: The mask, a tensor or an array.

    Raises:
      TypeError: If it is of another dtype.
    """
    tensor = as_tensor("a mask", mask)
    if tensor.dtype != tf.bool:
        raise TypeError(
            f"Expected a mask of booleans, True for what counts, got {tensor.dtype.name}: give "
            "mask != 0, or weights= if examples are to count more or less."
        )
    return tensor


def check_masked(network: Any, masked: bool) -> None:
    """Raises ValueError for the network of a masked objective where the mask is left out."""
    if getattr(network, "is_masked", False) and not masked:
        raise ValueError(
            "Expected a network whose outputs carry no mask, got a Keras model with one "
            "(Embedding(mask_zero=True), Masking), which is not known here: give hidden places a "
            "label that SoftmaxCrossEntropy(ignore_index=...) of custom_op.losses leaves out, and "
            "end the model in a layer that ends its mask."
        )


def takes(function: Callable[..., Any], *arguments: Any) -> bool:
    """Returns whether a function takes some arguments; True if its signature is unknown.

    Args:
      function: Any callable.
      *arguments: The arguments, of which only the number matters.
    """
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def check_takes(network: Callable[..., Any], stateful: bool) -> None:
    """Checks that a network takes the arguments that it will be called with.

    Args:
      network: A function.
      stateful: Whether it is called with a model state.

    Raises:
      TypeError: If it does not take them.
    """
    wanted = ("parameters", "model_state", "inputs") if stateful else ("parameters", "inputs")
    if not takes(network, *wanted):
        given = "with a model_state" if stateful else "without a model_state"
        raise TypeError(
            f"Expected a network that takes ({', '.join(wanted)}), as one {given} is called, got "
            f"{getattr(network, '__name__', network)}{inspect.signature(network)}."
        )


def split(network: Callable[..., Any], returned: Any, before: Any) -> tuple[tf.Tensor, Any]:
    """Returns the outputs and the new state of a network that was called.

    Args:
      network: The network, which error messages name.
      returned: The value that it returned.
      before: The model state that it was called with, `()` for none.

    Raises:
      TypeError: If the outputs are not a floating tensor, or a stateful network does not return a
        pair.
      ValueError: If the new state has other names, shapes or dtypes than the old one.
    """
    name = getattr(network, "__name__", type(network).__name__)
    stateful = bool(tf.nest.flatten(before))
    if stateful and not (isinstance(returned, (tuple, list)) and len(returned) == 2):
        raise TypeError(
            f"Expected the network {name} to return (outputs, new model_state), since it has a "
            f"model_state, got {_returned(returned)}."
        )
    outputs, after = returned if stateful else (returned, ())
    if isinstance(outputs, (tuple, list, dict)):
        hint = ": a network that returns a state too is given one, Objective(model_state=...)"
        raise TypeError(
            f"Expected the network {name} to return one tensor of outputs, which the loss compares "
            f"with the targets, got {_returned(outputs)}{'' if stateful else hint}."
        )
    if outputs is None or isinstance(outputs, tf.RaggedTensor) or not tf.is_tensor(outputs):
        hint = ": does it end without return?" if outputs is None else ""
        raise TypeError(
            f"Expected the network {name} to return a floating tensor, got "
            f"{_returned(outputs)}{hint}."
        )
    if not outputs.dtype.is_floating:
        raise TypeError(
            f"Expected the network {name} to return floating outputs, got {outputs.dtype.name}."
        )
    if stateful:
        _check_state(name, before, after)
    return outputs, after


def _check_state(name: str, before: Any, after: Any) -> None:
    same = True
    try:
        tf.nest.assert_same_structure(before, after)
    except (ValueError, TypeError):
        same = False
    pairs = zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=False)
    if same and all(_alike(old, new) for old, new in pairs):
        return
    raise ValueError(
        f"Expected the network {name} to return a new model_state like the one it was given, "
        f"{structures.describe(before)}, got {structures.describe(after)}: names, shapes and "
        "dtypes have to stay."
    )


def _alike(old: tf.Tensor, new: Any) -> bool:
    new = tf.convert_to_tensor(new) if not tf.is_tensor(new) else new
    return old.shape.is_compatible_with(new.shape) and old.dtype == new.dtype


def _returned(thing: Any) -> str:
    if isinstance(thing, (tuple, list, dict)):
        return f"a {type(thing).__name__} of {len(thing)}"
    return kind(thing)
