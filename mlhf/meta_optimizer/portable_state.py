"""Optimizer states as files keep them: without what depends on the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures
from mlhf.layout import Layout
from mlhf.meta_optimizer.rule import MetaState
from mlhf.optimizers.hessian_free import HessianFreeState


def to_portable(state: Any, layout: Layout | None = None) -> dict[str, Any]:
    """Returns an optimizer's state as a structure for `replay.write_structure`.

    MLHF's LSTM states come in lanes, as many as the machine has processors for; in the file their
    blocks stand in a row, and its flat vectors in the structure of the parameters.

    Args:
      state: A `MetaState`, or any other structure of tensors.
      layout: Of a `MetaState`'s vectors; `optimizer.layout(parameters)`.

    Returns:
      Dictionaries and lists of tensors.
    """
    if not isinstance(state, MetaState):
        return {"leaves": list(tf.nest.flatten(state))}
    assert layout is not None
    return {
        "solution": layout.unflatten(state.solution),
        "residual": layout.unflatten(state.residual),
        "damping": state.damping,
        "lstm": {role: tf.concat(lanes, 0) for role, lanes in state.lstm.items()},
    }


def from_portable(
    saved: dict[str, Any], like: Any, layout: Layout | None = None, finite: bool = False
) -> Any:
    """Returns the state that `to_portable` took apart.

    Args:
      saved: What `to_portable` returned, or a file of it.
      like: A state of the same optimizer, as `init` returns it.
      layout: As for `to_portable`.
      finite: Whether every floating number has to be finite.

    Returns:
      A state in the structure, dtypes and lanes of `like`.

    Raises:
      ValueError: If it is the state of another optimizer or network, or holds what no state does:
        integers for floating numbers, other shapes.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(f"Expected a saved state, found {type(saved).__name__}.")
    if not isinstance(like, MetaState):
        return _from_leaves(saved, like, finite)
    assert layout is not None
    missing = sorted({"solution", "residual", "damping", "lstm"} - set(saved))
    if missing:
        raise ValueError(
            f"Expected the state of a MetaHessianFree, found one without {missing}, with "
            f"{sorted(saved)}."
        )
    if not isinstance(saved["lstm"], Mapping) or set(saved["lstm"]) != set(like.lstm):
        roles = sorted(saved["lstm"]) if isinstance(saved["lstm"], Mapping) else saved["lstm"]
        raise ValueError(
            f"Expected the state of an optimizer with the roles {sorted(like.lstm)}, found {roles}."
        )
    zeros = layout.unflatten(np.zeros([layout.size], layout.dtype.as_numpy_dtype))

    def flat(key):
        return layout.flatten(_load(key, saved[key], zeros, finite))

    def lanes(role, parts):
        whole = tf.concat(parts, 0)
        return tuple(
            tf.split(
                _load(f"lstm/{role}", saved["lstm"][role], whole, finite),
                [lane.shape[0] for lane in parts],
            )
        )

    return MetaState(
        flat("solution"),
        flat("residual"),
        _load("damping", saved["damping"], like.damping, finite),
        {role: lanes(role, parts) for role, parts in like.lstm.items()},
    )


def _from_leaves(saved: Mapping[str, Any], like: Any, finite: bool) -> Any:
    own, names = tf.nest.flatten(like), structures.leaf_names(like)
    leaves = saved.get("leaves")
    if not isinstance(leaves, (list, tuple)):
        raise ValueError(
            f"Expected a state of a {type(like).__name__}, found one of another optimizer, with "
            f"{sorted(saved)}."
        )
    if len(own) != len(leaves):
        raise ValueError(
            f"Expected a state of {len(own)} arrays, {names}, found one of {len(leaves)}."
        )
    if isinstance(like, HessianFreeState):
        leaves = [_without_padding(leaves[0], own[0]), *leaves[1:]]
    values = [_load_leaf(name, b, a, finite) for name, a, b in zip(names, own, leaves, strict=True)]
    return tf.nest.pack_sequence_as(like, values)


def _without_padding(saved: Any, like: tf.Tensor) -> np.ndarray:
    """Returns a flat solution of plain Hessian-free, which older files have in padded blocks."""
    vector = np.asarray(saved)
    padded = vector.shape == (Layout(tf.zeros_like(like), "any").size,)
    return vector[: like.shape[0]] if padded else vector


def _load(name: str, saved: Any, like: Any, finite: bool) -> Any:
    """Returns a structure like another one, or raises ValueError."""
    # Names do not tell: Keras numbers layers anew in every process.
    paths, count = structures.leaf_names(like), len(tf.nest.flatten(saved))
    if len(paths) != count:
        raise ValueError(
            f"Expected {name} with {len(paths)} arrays, {paths}, found {count}: the state of "
            "another network?"
        )
    leaves = [
        _load_leaf(f"{name}/{path}" if len(paths) > 1 else name, b, a, finite)
        for path, a, b in zip(paths, tf.nest.flatten(like), tf.nest.flatten(saved), strict=True)
    ]
    return tf.nest.pack_sequence_as(like, leaves)


def _load_leaf(name: str, saved: Any, like: Any, finite: bool) -> tf.Tensor:
    array, dtype, shape = np.asarray(saved), tf.as_dtype(like.dtype), tuple(like.shape)
    numeric = np.issubdtype(array.dtype, np.floating if dtype.is_floating else np.integer)
    if array.shape != shape or not (numeric or array.dtype == dtype.as_numpy_dtype):
        raise ValueError(
            f"Expected {name} of the shape {shape} in {dtype.name}, found {array.dtype} of the "
            f"shape {array.shape}: the state of another network?"
        )
    if finite and dtype.is_floating and not np.all(np.isfinite(array)):
        raise ValueError(f"Expected finite numbers in {name}, found some that are not.")
    return tf.constant(array, dtype)
