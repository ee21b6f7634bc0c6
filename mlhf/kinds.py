"""Kinds of variables: which coordinates of a network share the weights of a learned rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from custom_op import structures
from mlhf import keras_internals
from mlhf.checks import parameter_names
from mlhf.checks.structures import kind as kind_of_thing

KINDS = (
    "conv_kernel",
    "conv_bias",
    "norm_gamma",
    "norm_beta",
    "dense_kernel",
    "dense_bias",
)

# For structures without layers: the family of a layer as a part of a path tells it, and the kind of
# its variables by the last part.
_FAMILIES = (
    (r"norm|(?<![a-z])bn(?![a-z])", {"gamma|scale": "norm_gamma", "beta|bias|offset": "norm_beta"}),
    (r"conv", {"kernel|weights?|w": "conv_kernel", "bias|b": "conv_bias"}),
    (r"dense|linear|fc|logits", {"kernel|weights?|w": "dense_kernel", "bias|b": "dense_bias"}),
)


def resolve_kinds(structure: Any, kinds: Any = None) -> list[str]:
    """Returns the kind of each leaf, in the order of `tf.nest.flatten`.

    Args:
      structure: The parameters: a structure of tensors. Unless `kinds` is given, its paths tell
        what each leaf is (`"conv1/kernel"`, `"dense/bias"`, `"norm/gamma"`).
      kinds: The kinds, explicitly: a structure like the parameters with a string for each leaf, a
        mapping from paths to kinds, or one string for all leaves.

    Returns:
      A list of strings. Your own names are kinds too, each with its own set of weights.

    Raises:
      TypeError: If a leaf is not a tensor.
      ValueError: If the kind of a leaf is unknown, or a key of `kinds` is not a leaf's path; the
        message names the leaf's path and shape, or the key.
    """
    paths = structures.leaf_names(structure)
    leaves = tf.nest.flatten(structure)
    if _by_path(kinds):
        kinds = {parameter_names.find(name, paths) or name: kind for name, kind in kinds.items()}
    for path, leaf in zip(paths, leaves, strict=True):
        if not hasattr(leaf, "shape") or isinstance(leaf, type):
            raise TypeError(
                f"Expected parameters as a structure of tensors, got {kind_of_thing(leaf)} for "
                f"{path!r}; a Keras model's are mlhf.get_parameters(model)."
            )
    if isinstance(kinds, str):
        return [kinds] * len(leaves)
    if _by_path(kinds) and set(kinds) >= set(paths):
        return [kinds[path] for path in paths]
    if kinds is not None and not isinstance(kinds, Mapping) or _same_structure(kinds, structure):
        flat = tf.nest.flatten(kinds)
        if len(flat) != len(leaves) or not all(isinstance(kind, str) for kind in flat):
            raise ValueError(
                f"Expected kinds= with a name for each of the {len(leaves)} parameters {paths}, "
                f"got {kinds!r}."
            )
        return flat
    unknown = sorted(set(kinds or {}) - set(paths))
    if unknown:
        raise ValueError(
            f"Expected the keys of kinds= among the parameters' paths {paths}, got {unknown}."
        )
    names = []
    for path, leaf in zip(paths, leaves, strict=True):
        kind = (kinds or {}).get(path) or kind_of_path(path)
        if kind is None:
            raise ValueError(
                f"The kind of the parameter {path!r} of shape {tuple(leaf.shape)} is not known. "
                f"Say which it is, one of {list(KINDS)} or a name of your own, with kinds=: a "
                f'mapping such as {{"{path}": "dense_kernel"}}, a structure like the parameters, '
                "or one name for all."
            )
        names.append(kind)
    return names


def kind_of_path(path: str) -> str | None:
    """Returns the kind that a path such as `"conv1/kernel"` stands for, or None.

    The part nearest to the variable's name decides: `"conv_net/dense/kernel"` is a dense kernel.
    """
    *layers, name = path.split("/")
    for layer in reversed(layers):
        for family, names in _FAMILIES:
            if re.search(family, layer, re.IGNORECASE):
                for pattern, kind in names.items():
                    if re.fullmatch(pattern, name, re.IGNORECASE):
                        return kind
    return None


def kinds_of_model(model: Any) -> dict[str, str]:
    """Returns the kinds of a Keras model's trainable variables, from their layers.

    Args:
      model: A built `keras.Model`.

    Returns:
      A dictionary from `variable.path` to the kind. Variables of layers other than convolutional,
      dense and normalisation layers are left out; specify theirs by hand.

    Raises:
      TypeError: If `model` is not a Keras model.
    """
    import keras

    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a built Keras model, got {kind_of_thing(model)}.")
    kinds = {}
    for layer in keras_internals.layers_of(model):
        if isinstance(layer, keras.Model) or not layer.trainable_variables:
            continue
        if "conv" in type(layer).__name__.lower():
            family = "conv"
        elif isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense)):
            family = "dense"
        elif "normalization" in type(layer).__name__.lower():
            family = "norm"
        else:
            continue
        for variable in keras_internals.own_trainable_variables(layer):
            name = variable.name.split("/")[-1]
            if family == "norm":
                part = "gamma" if name in ("gamma", "scale") else "beta"
            else:
                part = "bias" if "bias" in name else "kernel"
            kinds[variable.path] = f"{family}_{part}"
    return kinds


def with_layers(model: Any, kinds: Any = None) -> Any:
    """Adds the kinds of a Keras model's layers to those that the user specified.

    Args:
      model: A built `keras.Model`.
      kinds: The user's: a mapping from paths to kinds, one string for all, or None.

    Returns:
      The argument `kinds` of `resolve_kinds`.
    """
    if kinds is None or isinstance(kinds, Mapping):
        paths = [variable.path for variable in model.trainable_variables]
        given = {parameter_names.find(name, paths) or name: k for name, k in (kinds or {}).items()}
        return {**kinds_of_model(model), **given}
    return kinds


def _by_path(kinds: Any) -> bool:
    return isinstance(kinds, Mapping) and all(isinstance(kind, str) for kind in kinds.values())


def _same_structure(kinds: Any, structure: Any) -> bool:
    if kinds is None:
        return False
    try:
        tf.nest.assert_same_structure(kinds, structure)
    except (ValueError, TypeError):
        return False
    return True
