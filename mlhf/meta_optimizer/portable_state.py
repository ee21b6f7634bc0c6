"""MLHF's states as files keep them: without what depends on the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer.rule import MetaState
from mlhf.optimizers.saved_state import load


def to_portable(state: MetaState, layout: Layout) -> dict[str, Any]:
    """Returns a state as a structure for `replay.write_structure`.

    The LSTMs' states come in lanes, as many as the machine has processors for; in the file their
    blocks stand in a row, and flat vectors in the structure of the parameters.

    Args:
      state: An optimizer's.
      layout: The layout of its vectors, `optimizer.layout(parameters)`.

    Returns:
      Dictionaries and lists of tensors.
    """
    counted = {} if isinstance(state.step, tuple) else {"step": state.step}
    return {
        "solution": layout.unflatten(state.solution),
        "residual": layout.unflatten(state.residual),
        "damping": state.damping,
        "lstm": {role: tf.concat(lanes, 0) for role, lanes in state.lstm.items()},
        **counted,
    }


def from_portable(saved: Any, like: MetaState, layout: Layout, finite: bool = False) -> MetaState:
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

    def flat(key: str) -> tf.Tensor:
        return layout.flatten(load(key, saved[key], zeros, finite))

    def lanes(role: str, parts: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        whole = tf.concat(parts, 0)
        return tuple(
            tf.split(
                load(f"lstm/{role}", saved["lstm"][role], whole, finite),
                [lane.shape[0] for lane in parts],
            )
        )

    return MetaState(
        flat("solution"),
        flat("residual"),
        load("damping", saved["damping"], like.damping, finite),
        {role: lanes(role, parts) for role, parts in like.lstm.items()},
        # A file from before the rate was a schedule has no count.
        ()
        if isinstance(like.step, tuple)
        else load("step", saved.get("step", 0), like.step, finite),
    )
