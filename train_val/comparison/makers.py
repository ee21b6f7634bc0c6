"""Makes optimizers from the settings of a specification, each traced once for its whole grid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras

import mlhf
from train_val.cli.specification_checks import SCHEDULED

# Settings that are set on an existing optimizer, which is then traced once for the whole grid.
SETTABLE = {"learning_rate", "damping"}
# The length of a run that nobody knows.
_SOME_STEPS = 1000


class Maker:
    """A function from tuned settings to an optimizer."""

    def __init__(
        self,
        kind: Callable[..., Any],
        fixed: Mapping[str, Any],
        allowed: Collection[str],
        text: str,
    ) -> None:
        """Keeps what all optimizers of a specification share.

        Args:
          kind: The class, or a function that returns an optimizer.
          fixed: The settings that are not tuned.
          allowed: The arguments that `kind` takes.
          text: The specification, for errors.
        """
        self._kind, self._fixed, self._allowed, self._text = kind, fixed, allowed, text
        self._latest: tuple[int, Any] | None = None

    def __call__(self, setting: Mapping[str, Any], steps: int = _SOME_STEPS) -> Any:
        """Returns an optimizer; the last one, with other numbers, if that is possible.

        Args:
          setting: Values of the tuned settings.
          steps: The number of steps of the run, at whose end a schedule ends.

        Raises:
          ValueError: If the settings do not fit together.
        """
        values = {**self._fixed, **setting}
        schedule = {
            key: values.pop(key) for key in SCHEDULED if key in values and key not in self._allowed
        }
        own_horizon = "horizon" in self._allowed
        if own_horizon:
            values.setdefault("horizon", steps)
        try:
            known = self._latest
            if (
                known is not None
                and set(setting) <= SETTABLE
                and (known[0] == steps or not own_horizon)
            ):
                optimizer = known[1]
                for key in setting:
                    setattr(optimizer, key, values[key])
            else:
                optimizer = self._new(values)
            if schedule:
                optimizer.learning_rate = self._schedule(optimizer, values, schedule, steps)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self._text!r} can't be made ({error})") from error
        self._latest = steps, optimizer
        return optimizer

    def _new(self, values: Mapping[str, Any]) -> Any:
        # Keras does not take a whole number as a learning rate.
        arguments = {
            key: float(value) if key in SETTABLE and isinstance(value, int) else value
            for key, value in values.items()
        }
        optimizer = self._kind(**arguments)
        if isinstance(optimizer, keras.optimizers.Optimizer):
            optimizer = mlhf.FirstOrder(optimizer)
        return optimizer

    def _schedule(
        self, optimizer: Any, values: Mapping[str, Any], given: Mapping[str, Any], steps: int
    ) -> mlhf.Schedule:
        rate = values.get("learning_rate", optimizer.learning_rate)
        if isinstance(rate, mlhf.Schedule):
            rate = rate.learning_rate  # of the last run
        if rate is None:
            raise ValueError("Expected lr= with a number beside a schedule, got none.")
        return mlhf.Schedule(
            float(rate),
            given.get("schedule", "constant"),
            given.get("horizon", steps),
            given.get("warmup", 0),
        )
