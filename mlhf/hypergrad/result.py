"""What a method returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Result:
    """A hypergradient and what came with it.

    Attributes:
      hypergradient: The gradient by the name of the hyperparameter, shaped like it.
      valid_loss: The outer loss at the last weights, a scalar; a dictionary where there are
        several.
      weights: The last weights, structured like those that training began with.
      per_step: What each step contributed through itself, by the name of the hyperparameter, with
        a leading axis of steps: the gradient in a schedule, or the terms whose sum (with the
        direct term and that of the first weights) a constant's gradient is. Empty where the method
        has none.
      state: The last state of the dynamics, a dictionary of structures like the weights (or
        scalars).
      train_loss: The training loss before each step, [T]; None where the method does not keep it.
      adjoint_norm: ‖∂E/∂w_t‖ for t = 0 ... T by the outer loss's name, each [T + 1] (of a
        truncated pass, of its last steps); empty where the method has none.
      hyperparameters: Those that the hypergradient is at: for a method with updates on the way,
        the last.
      method: The method's name.
      info: What else the method has to tell, by name: residuals, iterations, bits.
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
