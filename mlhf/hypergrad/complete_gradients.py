"""Refuses functions whose derivative TensorFlow would compute in part only.

A tape drops a path through an operation without a gradient as long as another path exists. And for
given random numbers, the derivative of a random decision (such as dropout's mask, with respect to
its rate) is zero, even where the mean over the random numbers changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from custom_op.graphs import detours
from custom_op.graphs.gradient_paths import Paths, refuse_missing
from mlhf.hypergrad.dynamics import base as dynamics_module
from mlhf.hypergrad.dynamics.base import Dynamics, State


class Sources:
    """The tensors that a traced function is differentiated with respect to, and their names."""

    def __init__(
        self,
        weights: Sequence[tf.Tensor],
        weight_names: Sequence[str],
        hyperparameters: Sequence[tf.Tensor],
        names: Sequence[str],
    ):
        """Lists the tensors.

        Args:
          weights: The leaves of the weights.
          weight_names: The names of these leaves.
          hyperparameters: The leaves of the hyperparameters.
          names: The names of these leaves.
        """
        self._weights, self._hyper, self._names = list(weights), list(hyperparameters), names
        self._texts = [f"the weights {name!r}" for name in weight_names]
        self._texts += [f"the hyperparameter {name!r}" for name in names]

    def check_in_weights(self, values: Sequence[tf.Tensor], what: str) -> None:
        """Raises NotDifferentiableError if a derivative in a weight is incomplete."""
        refuse_missing(Paths(self._weights, values), self._texts, what)

    def check(self, values: Sequence[tf.Tensor], what: str) -> None:
        """Raises NotDifferentiableError if a derivative in any of the tensors is incomplete."""
        refuse_missing(Paths([*self._weights, *self._hyper], values), self._texts, what)

    def check_draws(self, values: Sequence[tf.Tensor], what: str) -> None:
        """Raises ValueError if a hyperparameter takes part in a random decision without weights."""
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
      dynamics: The dynamics of a problem; those of this package are complete and not checked.
      state: The state before a step.
      gradient: The gradient of the training loss, [P].
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
