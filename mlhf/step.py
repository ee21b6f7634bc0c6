"""What every optimizer of the project returns from a step."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class Step(NamedTuple):
    """One step taken."""

    parameters: Any  # in the structure of those that went in
    state: Any  # of the optimizer
    model_state: Any  # of the network; None if it has none
    metrics: dict[str, tf.Tensor]  # scalars


def public_model_state(model_state: Any) -> Any:
    """Returns a model state as users see it: None where there is none."""
    return model_state if tf.nest.flatten(model_state) else None
