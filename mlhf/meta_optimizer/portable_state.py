"""MLHF's states in the form that files hold, which does not depend on the machine."""

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

    The LSTMs' states come in lanes, whose number depends on the machine's processors; a file holds
    their blocks in a row, and flat vectors in the structure of the parameters.

    Args:
      state: The state of a `MetaHessianFree`.
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
      saved: The structure that `to_portable` returned, or that was read from a file of it.
      like: A state of the same optimizer, as `init` returns it.
      layout: The layout, as for `to_portable`.
      finite: Whether every floating number has to be finite.

    Returns:
      A state in the structure, dtypes and lanes of `like`.

    Raises:
      ValueError: If it is the state of another optimizer or network, or no state at all: with
        integers instead of floating numbers, or other shapes.
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
        # A file that was written before the rate was a schedule has no count.
        ()
        if isinstance(like.step, tuple)
        else load("step", saved.get("step", 0), like.step, finite),
    )
