"""What every optimizer of the project returns from a step, and how its step is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.keras_contracts import projected
from mlhf.objective import Objective

_FAILED = ("decomposition was not successful", "not invertible")


class Step(NamedTuple):
    """One step taken."""

    parameters: Any  # in the structure of those that went in
    state: Any  # of the optimizer
    model_state: Any  # of the network; None if it has none
    metrics: dict[str, tf.Tensor]  # scalars


def is_failed_factorization(error: tf.errors.InvalidArgumentError) -> bool:
    """Whether TensorFlow could not factor a matrix: what an optimizer that diverged ends in.

    Decompositions and inverses of what is not finite, or singular, are errors on a CPU, where other
    operations give NaN (Cholesky's too from some version of TensorFlow on).
    """
    return any(words in str(error) for words in _FAILED)


def public_model_state(model_state: Any) -> Any:
    """Returns a model state as users see it: None where there is none."""
    return model_state if tf.nest.flatten(model_state) else None


class CompiledSteps:
    """What optimizers share whose step is one function, compiled once for each objective.

    Attributes:
      jit_compile: Whether XLA compiles it.
    """

    _step: Callable[..., tuple]

    def __init__(self, jit_compile: bool):
        self.jit_compile = jit_compile
        self._compiled: dict = {}

    def _take(self, objective: Objective, *arguments: Any, key: Any = None) -> Step:
        """Returns `self._step(objective.static, objective.tensors, *arguments)`, compiled.

        Args:
          objective: The loss on a batch.
          *arguments: Structures of tensors.
          key: What else the compiled function depends on, besides shapes.
        """
        static = objective.static
        # Named tuples of two classes are equal where their fields are.
        key = static, tuple(type(part) for part in static), key
        if key not in self._compiled:
            self._compiled[key] = tf.function(
                lambda *inside: self._constrained(static, *inside),
                jit_compile=self.jit_compile,
                autograph=False,
            )
        parameters, state, model_state, metrics = self._compiled[key](objective.tensors, *arguments)
        return Step(parameters, state, public_model_state(model_state), metrics)

    def _constrained(self, static: tuple, *inside: Any) -> tuple:
        """A step, and what constraints of a Keras model's variables make of where it ends."""
        parameters, *rest = self._step(static, *inside)
        return projected(static[0], parameters), *rest
