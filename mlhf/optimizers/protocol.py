"""What an optimizer is to the rest of the project: the loops of training and of comparisons."""

from __future__ import annotations

import copy
from typing import Any, Protocol, runtime_checkable

from mlhf.objective import Objective
from mlhf.optimizers import saved_state


@runtime_checkable
class Optimizer(Protocol):
    """An optimizer: where training begins, a step, what of its state is finite, and saved states.

    A state is a structure of tensors, `()` if there is none. It goes in and comes out: an optimizer
    can take a step twice from the same place, and serve several trainings of networks alike.
    """

    def init(self, parameters: Any) -> Any:
        """Returns the state before the first step on parameters, a structure of tensors."""

    def init_for(self, task: Any, parameters: Any) -> Any:
        """Returns that state where the `mlhf.Task` says more of the parameters, such as kinds."""

    def step(self, objective: Objective, parameters: Any, state: Any) -> Any:
        """Takes one step, and returns a `mlhf.Step`."""

    def finite_part(self, state: Any) -> Any:
        """Returns what of a state has to be finite: the rest is where this is."""

    def to_saved(self, state: Any, parameters: Any) -> dict[str, Any]:
        """Returns a state as dictionaries and lists of tensors, the same on every machine."""

    def from_saved(self, saved: Any, like: Any, parameters: Any, finite: bool = False) -> Any:
        """Returns the state that `to_saved` took apart, in the structure of `like`.

        Raises:
          ValueError: If it is of another optimizer or network, or not finite and has to be.
        """

    def without_xla(self) -> Any:
        """Returns a copy that compiles its steps anew, without XLA, to look into them."""


class PlainState:
    """What of an `Optimizer` follows from `init` and `step` where a state is just its leaves."""

    def init_for(self, task: Any, parameters: Any) -> Any:
        """Returns the state before the first step: the parameters say all."""
        del task
        return self.init(parameters)  # type: ignore[attr-defined]

    def finite_part(self, state: Any) -> Any:
        """Returns all of it."""
        return state

    def to_saved(self, state: Any, parameters: Any) -> dict[str, Any]:
        """Returns the leaves."""
        del parameters
        return saved_state.to_leaves(state)

    def from_saved(self, saved: Any, like: Any, parameters: Any, finite: bool = False) -> Any:
        """Returns the state of such leaves."""
        del parameters
        return saved_state.from_leaves(saved, like, finite)

    def without_xla(self) -> Any:
        """Returns a copy."""
        return copy.copy(self)


class _Completed(PlainState):
    """Something with `init` and `step` alone as an `Optimizer`."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.init, self.step = optimizer.init, optimizer.step

    def without_xla(self) -> Any:
        """Returns a copy, of the optimizer too."""
        return _Completed(copy.copy(self._optimizer))


def complete(optimizer: Any) -> Optimizer:
    """Returns an optimizer as it is, and what has `init` and `step` alone with the rest of one."""
    return optimizer if isinstance(optimizer, Optimizer) else _Completed(optimizer)
