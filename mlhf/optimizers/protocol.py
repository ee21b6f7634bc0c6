"""What an optimizer is to the rest of the project: to the loops of training and comparisons."""

from __future__ import annotations

import copy
from typing import Any, Protocol, runtime_checkable

from mlhf.objective import Objective
from mlhf.optimizers import saved_state


@runtime_checkable
class Optimizer(Protocol):
    """An optimizer: its first state, its step, the part of a state to check, and saved states.

    A state is a structure of tensors, `()` if there is none. It goes in and comes out: an optimizer
    can take a step twice from the same point, and serve several trainings of similar networks.
    """

    def init(self, parameters: Any) -> Any:
        """Returns the state before the first step on parameters, a structure of tensors."""

    def init_for(self, task: Any, parameters: Any) -> Any:
        """Returns that state, with what the `mlhf.Task` tells of the parameters, such as kinds."""

    def step(self, objective: Objective, parameters: Any, state: Any) -> Any:
        """Takes one step, and returns an `mlhf.Step`."""

    def evaluation_parameters(self, parameters: Any, state: Any) -> Any:
        """Returns the parameters to evaluate, test and keep: of some optimizers an average.

        Args:
          parameters: The parameters that the last step returned.
          state: The state that it returned.
        """

    def finite_part(self, state: Any) -> Any:
        """Returns the part of a state that has to be finite: if it is, so is the rest."""

    def to_saved(self, state: Any, parameters: Any) -> dict[str, Any]:
        """Returns a state as dictionaries and lists of tensors, the same on every machine."""

    def from_saved(self, saved: Any, like: Any, parameters: Any, finite: bool = False) -> Any:
        """Returns the state that `to_saved` took apart, in the structure of `like`.

        Raises:
          ValueError: If it is of another optimizer or network, or has to be finite and is not.
        """

    def without_xla(self) -> Any:
        """Returns a copy that compiles its steps anew, without XLA, to look inside."""


class PlainState:
    """The methods of an `Optimizer` that follow from `init` and `step` if a state is its leaves."""

    def init_for(self, task: Any, parameters: Any) -> Any:
        """Returns the state before the first step, which depends on the parameters only."""
        del task
        return self.init(parameters)  # type: ignore[attr-defined]

    def evaluation_parameters(self, parameters: Any, state: Any) -> Any:
        """Returns the parameters, where the next gradient is taken too."""
        del state
        return parameters

    def finite_part(self, state: Any) -> Any:
        """Returns the whole state."""
        return state

    def to_saved(self, state: Any, parameters: Any) -> dict[str, Any]:
        """Returns the state's leaves."""
        del parameters
        return saved_state.to_leaves(state)

    def from_saved(self, saved: Any, like: Any, parameters: Any, finite: bool = False) -> Any:
        """Returns the state that has these leaves."""
        del parameters
        return saved_state.from_leaves(saved, like, finite)

    def without_xla(self) -> Any:
        """Returns a copy."""
        return copy.copy(self)


class _Completed(PlainState):
    """An object with `init` and `step` as an `Optimizer`."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.init, self.step = optimizer.init, optimizer.step

    def evaluation_parameters(self, parameters: Any, state: Any) -> Any:
        """Returns what the optimizer says, or the parameters if it says nothing."""
        if hasattr(self._optimizer, "evaluation_parameters"):
            return self._optimizer.evaluation_parameters(parameters, state)
        return parameters

    def without_xla(self) -> Any:
        """Returns a copy, with a copy of the optimizer."""
        return _Completed(copy.copy(self._optimizer))


def complete(optimizer: Any) -> Optimizer:
    """Returns an optimizer as it is; adds the methods that one with `init` and `step` lacks."""
    return optimizer if isinstance(optimizer, Optimizer) else _Completed(optimizer)
