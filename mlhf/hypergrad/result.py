"""The result that every method returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Result:
    """A hypergradient and the training that it belongs to.

    Attributes:
      hypergradient: The gradient in each hyperparameter, by name, shaped like the hyperparameter.
      valid_loss: The outer loss at the last weights, a scalar; a dictionary where there are
        several.
      weights: The last weights, structured like those that training began with.
      per_step: The contribution of each step to the hypergradient, by the name of the
        hyperparameter, with a leading axis of steps: the gradient in a schedule, or the terms that
        add up (with the direct term and that of the first weights) to a constant's gradient. Empty
        where the method has none.
      state: The last state of the dynamics, a dictionary of structures like the weights (or
        scalars).
      train_loss: The training loss before each step, [T]; None where the method does not keep it.
      adjoint_norm: ‖∂E/∂w_t‖ for t = 0 ... T by the outer loss's name, each [T + 1] (of a
        truncated pass, of its last steps); empty where the method has none.
      hyperparameters: The hyperparameters at which the gradient is taken; the last ones if the
        method updates them on the way.
      method: The name of the method.
      info: Further numbers of the method, by name, such as residuals, iterations or bits.
    """

    hypergradient: dict[str, Any]
    valid_loss: Any
    weights: Any
    per_step: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: dict[str, Any] = dataclasses.field(default_factory=dict)
    train_loss: tf.Tensor | None = None
    adjoint_norm: dict[str, tf.Tensor] = dataclasses.field(default_factory=dict)
    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    method: str = ""
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
