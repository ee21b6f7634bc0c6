"""Refusals of functions whose derivative TensorFlow would leave a part of out.

A tape drops a path through an operation without a gradient as long as another path exists. And the
derivative of a random decision, such as the mask of dropout in its rate, is zero for given random
numbers, whatever the mean over them does.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from custom_op.graphs import detours
from custom_op.graphs.gradient_paths import Paths, refuse_missing
from mlhf.hypergrad.dynamics import base as dynamics_module
from mlhf.hypergrad.dynamics.base import Dynamics, State


class Sources:
    """The tensors that a traced function is differentiated in, and what they are called."""

    def __init__(
        self,
        weights: Sequence[tf.Tensor],
        weight_names: Sequence[str],
        hyperparameters: Sequence[tf.Tensor],
        names: Sequence[str],
    ):
        """Lists them.

        Args:
          weights: The leaves of the weights.
          weight_names: Their names.
          hyperparameters: The leaves of the hyperparameters.
          names: Their names.
        """
        self._weights, self._hyper, self._names = list(weights), list(hyperparameters), names
        self._texts = [f"the weights {name!r}" for name in weight_names]
        self._texts += [f"the hyperparameter {name!r}" for name in names]

    def check_in_weights(self, values: Sequence[tf.Tensor], what: str) -> None:
        """Raises NotDifferentiableError if a derivative in the weights is incomplete."""
        refuse_missing(Paths(self._weights, values), self._texts, what)

    def check(self, values: Sequence[tf.Tensor], what: str) -> None:
        """Raises NotDifferentiableError if a derivative in anything is incomplete."""
        refuse_missing(Paths([*self._weights, *self._hyper], values), self._texts, what)

    def check_draws(self, values: Sequence[tf.Tensor], what: str) -> None:
        """Raises ValueError if a hyperparameter, and no weight, decides by random numbers."""
        weights = range(len(self._hyper), len(self._hyper) + len(self._weights))
        for draw in Paths([*self._hyper, *self._weights], values, undrawn=weights).drawn:
            name = self._names[min(draw.sources)]
            raise ValueError(
                f"In {what}, the hyperparameter {name!r} takes part in a random decision "
                f"(the operation {draw.op.type!r}, named {draw.op.name!r}), as the rate of dropout "
                "does. For given random numbers the derivative of a decision is zero, so that the "
                "hypergradient would miss what it does on average. Relax the decision (a sigmoid "
                "of the difference in the place of the comparison), compare whole trainings, or "
                "wrap the hyperparameter in tf.stop_gradient there if its other effects are all "
                "that is meant."
            )


def check_dynamics(dynamics: Dynamics, state: State, gradient: tf.Tensor, values: State) -> None:
    """Raises NotDifferentiableError if a user's dynamics have an incomplete derivative.

    Args:
      dynamics: Of a problem; those of this package are known to be complete.
      state: Before a step.
      gradient: Of the training loss, [P].
      values: The dynamics' own hyperparameters in the step.
    """
    if type(dynamics).__module__.startswith(f"{dynamics_module.__name__.rpartition('.')[0]}."):
        return
    before = {name: tf.identity(slot) for name, slot in state.items()}
    own = {name: tf.identity(value) for name, value in values.items()}
    slope = tf.identity(gradient)
    after = dynamics.update(before, slope, own)
    results = [*after.values(), dynamics.point(before, own)]
    names = [f"the state's {name!r}" for name in before]
    names += [f"the hyperparameter {name!r}" for name in own]
    sources = [*before.values(), *own.values(), slope]
    refuse_missing(
        Paths(sources, results), [*names, "the gradient"], f"a step of {type(dynamics).__name__}"
    )
    detours.check(sources, results, repeated=True)
