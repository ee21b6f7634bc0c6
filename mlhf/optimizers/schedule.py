"""Learning rates that rise and fall with the steps taken."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count, check_number

KINDS = ("constant", "linear", "cosine")


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate as a function of the steps taken: lr · rise · fall.

    With n the number of steps taken, W those of the rise and T all steps, and t = (n - W)/(T - W),

        rise = min(1, (n + 1)/W)
        fall = 1 (constant),  1 - t (linear),  (1 + cos π t)/2 (cosine)

    so that step T, the last one, still has a rate above 0. From then on a rate that falls is 0.
    Optimizers of this package and of Keras take it as their learning rate; their states count the
    steps, so that it also changes inside a `tf.function`.
    """

    def __init__(
        self,
        learning_rate: float,
        kind: str = "linear",
        horizon: int | None = None,
        warmup: float = 0,
    ) -> None:
        """Sets a schedule up.

        Args:
          learning_rate: lr, positive, the largest rate.
          kind: The fall after the rise: `"constant"` (none), `"linear"` or `"cosine"`.
          horizon: T, the number of steps that training takes; needed for a fall.
          warmup: W: a whole number of steps, or a share of the horizon, below 1.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        self.learning_rate = check_number("learning_rate", learning_rate, above=0)
        self.kind = check_choice("kind", kind, KINDS)
        self.horizon = None if horizon is None else check_count("horizon", horizon)
        self.warmup = check_number("warmup", warmup, at_least=0)
        if self.horizon is None and (kind != "constant" or 0 < self.warmup < 1):
            raise ValueError(
                f"Expected horizon= with the number of steps for a schedule of kind={kind!r} with "
                f"warmup={warmup!r}, got None."
            )
        self._rise = self._steps_of_the_rise()

    def _steps_of_the_rise(self) -> int:
        if self.warmup < 1:
            return round(self.warmup * (self.horizon or 0))
        rise = check_count("warmup", int(self.warmup) if self.warmup % 1 == 0 else self.warmup)
        if self.horizon is not None and rise >= self.horizon:
            raise ValueError(
                f"Expected warmup to be less than the {self.horizon} steps of the horizon, got "
                f"{rise}."
            )
        return rise

    def with_rate(self, learning_rate: float) -> Schedule:
        """Returns the schedule with another learning rate."""
        return Schedule(learning_rate, self.kind, self.horizon, self.warmup)

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the rate of the step after so many.

        Args:
          step: The number of steps taken, a number or a scalar tensor.

        Returns:
          A scalar: of the dtype of `step` if that is floating, else of Keras' floating dtype.
        """
        step = tf.convert_to_tensor(step)
        dtype = step.dtype if step.dtype.is_floating else tf.as_dtype(keras.config.floatx())
        taken = tf.cast(step, tf.float64)
        rate = tf.constant(self.learning_rate, tf.float64)
        if self._rise:
            rate *= tf.minimum((taken + 1) / self._rise, 1.0)
        if self.kind != "constant":
            left = float((self.horizon or 0) - self._rise)
            t = tf.clip_by_value((taken - self._rise) / left, 0.0, 1.0)
            rate *= 1 - t if self.kind == "linear" else (1 + tf.cos(math.pi * t)) / 2
        return tf.cast(rate, dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, from which Keras makes it again."""
        names = ("learning_rate", "kind", "horizon", "warmup")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        """Returns the call that makes it."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"Schedule({arguments})"
