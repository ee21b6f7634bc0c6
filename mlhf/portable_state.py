"""Optimizer states as files keep them: without what depends on the machine."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mlhf.layout import Layout
from mlhf.proposal import MetaState


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


def from_portable(saved: dict[str, Any], like: Any, layout: Layout | None = None) -> Any:
    """Returns the state that `to_portable` took apart.

    Args:
      saved: What `to_portable` returned, or a file of it.
      like: A state of the same optimizer, as `init` returns it.
      layout: As for `to_portable`.

    Returns:
      A state in the structure, dtypes and lanes of `like`.

    Raises:
      ValueError: If it is the state of another optimizer or network.
    """
    if not isinstance(like, MetaState):
        own = tf.nest.flatten(like)
        leaves = saved.get("leaves", [])
        expected, found = [tuple(a.shape) for a in own], [tuple(a.shape) for a in leaves]
        if expected != found:
            raise ValueError(f"Expected a state of the shapes {expected}, found {found}.")
        values = [tf.constant(b, a.dtype) for a, b in zip(own, leaves, strict=True)]
        return tf.nest.pack_sequence_as(like, values)
    assert layout is not None
    if set(saved.get("lstm", {})) != set(like.lstm):
        raise ValueError(
            f"Expected the state of an optimizer with the roles {sorted(like.lstm)}, found "
            f"{sorted(saved.get('lstm', {}))}."
        )

    def flat(key):
        cast = tf.nest.map_structure(lambda value: tf.constant(value, layout.dtype), saved[key])
        return layout.flatten(cast)

    return MetaState(
        flat("solution"),
        flat("residual"),
        tf.constant(saved["damping"], like.damping.dtype),
        {
            role: tuple(
                tf.split(tf.constant(saved["lstm"][role]), [lane.shape[0] for lane in lanes])
            )
            for role, lanes in like.lstm.items()
        },
    )
