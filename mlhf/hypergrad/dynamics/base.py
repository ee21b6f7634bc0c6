"""The interface of dynamics, which say what a step of training does, and gradient descent."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from custom_op import tensorflow_internals as internals

State = dict[str, tf.Tensor]


class StepLoss(NamedTuple):
    """The training loss of one step, as a function of the flat weights [P] alone.

    Attributes:
      value: A function from weights to the loss, a scalar that is constant under differentiation;
        for line searches.
      value_and_gradient: A function from weights to the loss and its gradient [P].
    """

    value: Callable[[tf.Tensor], tf.Tensor]
    value_and_gradient: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class Pulled(NamedTuple):
    """The adjoints of an update's arguments; None stands for zero."""

    state: dict[str, tf.Tensor | None]
    gradient: tf.Tensor | None
    values: dict[str, tf.Tensor | None]


class Dynamics(abc.ABC):
    """A map from the state before a step to the state after it, differentiable in everything.

    A step takes the gradient g of its training loss at `point(state)`, and is `update(state, g)`.
    A state is a dictionary of tensors, `"weights"` [P] among them. A dynamics' own
    hyperparameters have names and constant values; a hyperparameter that a user passes under the
    same name replaces the constant and is differentiated.

    Attributes:
      constants: The values of its own hyperparameters, for those that the user does not pass.
      domains: The half-open interval of each hyperparameter's valid values.
    """

    constants: Mapping[str, float]
    domains: Mapping[str, tuple[float, float]] = {}

    @abc.abstractmethod
    def init(self, weights: tf.Tensor, values: Mapping[str, tf.Tensor]) -> State:
        """Returns the state before the first step.

        Args:
          weights: The first weights, [P].
          values: The dynamics' own hyperparameters in the first step, scalars or [P], of which only
            the shapes matter.

        Returns:
          The state, which is differentiated in `weights`.
        """

    @abc.abstractmethod
    def update(self, state: State, gradient: tf.Tensor, values: Mapping[str, tf.Tensor]) -> State:
        """Returns the state after a step by arithmetic alone, without evaluating a loss.

        Args:
          state: The state before the step.
          gradient: The gradient of this step's training loss at `point`, [P].
          values: The dynamics' own hyperparameters in this step, each a scalar or a vector [P].

        Returns:
          The state, with the same slots.
        """

    def point(self, state: State, values: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the point at which a step takes the gradient, [P]; by default the weights."""
        return state["weights"]

    def scales(
        self,
        loss: StepLoss,
        point: tf.Tensor,
        value: tf.Tensor,
        gradient: tf.Tensor,
        values: Mapping[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """Returns factors by which a step multiplies own hyperparameters; by default none.

        Args:
          loss: The training loss of this step.
          point: The point at which the gradient is taken.
          value: The loss at this point.
          gradient: The gradient at this point.
          values: The dynamics' own hyperparameters in this step.

        Returns:
          Scalars by the names of hyperparameters, constant under differentiation.
        """
        return {}

    def step(
        self, state: State, loss: StepLoss, values: Mapping[str, tf.Tensor]
    ) -> tuple[State, tf.Tensor]:
        """Takes one step.

        Args:
          state: The state before the step.
          loss: The training loss of this step.
          values: The dynamics' own hyperparameters in this step.

        Returns:
          The state after the step, and the training loss before it.
        """
        point = self.point(state, values)
        value, gradient = loss.value_and_gradient(point)
        scales = self.scales(loss, point, value, gradient, values)
        return self._sealed(state, gradient, scaled(values, scales)), value

    def pull(
        self,
        state: State,
        gradient: tf.Tensor,
        values: Mapping[str, tf.Tensor],
        after: State,
        adjoint: State,
        wanted: Collection[str],
    ) -> Pulled:
        """Takes an adjoint through `update`; by default by automatic differentiation.

        Dynamics with a short derivative override it, which takes fewer operations.

        Args:
          state: The state before the step.
          gradient: As for `update`.
          values: As for `update`.
          after: The state after the step, which was computed before.
          adjoint: The adjoint of the state after the step.
          wanted: The names of the values whose adjoints are needed.

        Returns:
          The adjoints; None stands for zero.
        """
        slots, names = sorted(state), sorted(wanted)
        before = [tf.identity(state[slot]) for slot in slots]
        slope, own = tf.identity(gradient), [tf.identity(values[name]) for name in names]
        with tf.GradientTape() as tape:
            tape.watch([*before, slope, *own])
            again = self.update(
                dict(zip(slots, before, strict=True)),
                slope,
                {**values, **dict(zip(names, own, strict=True))},
            )
        found = tape.gradient(
            [again[slot] for slot in slots],
            [*before, slope, *own],
            [adjoint[slot] for slot in slots],
        )
        return Pulled(
            dict(zip(slots, found, strict=False)),
            found[len(slots)],
            dict(zip(names, found[len(slots) + 1 :], strict=True)),
        )

    @functools.cached_property
    def _sealed(self) -> Callable[..., State]:
        # TensorFlow's graph optimizer rewrites sums of products, and does so differently where a
        # derivative reads intermediate results: the last bits of the weights would depend on the
        # method that they are trained for. It leaves a function that is not inlined in one piece.
        return tf.function(
            self.update, autograph=False, experimental_attributes=internals.NOT_INLINED
        )

    def with_velocity(self, state: State, velocity: tf.Tensor) -> State:
        """Returns the first state with a given velocity [P].

        Raises:
          ValueError: If these dynamics do not have a velocity.
        """
        raise ValueError(
            f"Expected no 'initial_velocity', got one: {type(self).__name__} has no velocity. "
            "Leave it out, or train with Momentum."
        )

    def check(self) -> None:
        """Raises ValueError if a constant lies outside its domain."""
        for name, value in self.constants.items():
            check_domain(self, name, value)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.constants.items())
        return f"{type(self).__name__}({values})"


def scaled(
    values: Mapping[str, tf.Tensor], scales: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Returns hyperparameters, some of them multiplied."""
    return {
        name: value * scales[name] if name in scales else value for name, value in values.items()
    }


def product_like(value: tf.Tensor, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Returns <a, b> for a scalar value and a ⊙ b for a vector: the adjoint of value ⊙ b."""
    # On vectors, the matrix product of tf.tensordot takes four times as long.
    return tf.reduce_sum(a * b) if value.shape.rank == 0 else a * b


def check_domain(dynamics: Dynamics, name: str, value: Any) -> None:
    """Checks that a hyperparameter of the dynamics has valid values.

    Args:
      dynamics: The dynamics.
      name: The name of the hyperparameter.
      value: A number or an array.

    Raises:
      ValueError: If a value lies outside the hyperparameter's domain.
    """
    low, high = dynamics.domains.get(name, (-float("inf"), float("inf")))
    flat = np.asarray(value, np.float64).ravel().tolist()
    wrong = [number for number in flat if not low <= number < high]
    if wrong:
        raise ValueError(
            f"Expected {name} of {type(dynamics).__name__} within [{low}, {high}), got {wrong[0]}. "
            "Project it after an outer step, or learn a reparameterisation of it."
        )


class GradientDescent(Dynamics):
    """Gradient descent, w' = w - η g.

    With backtracking, each step shrinks η until L(w - η g) <= L(w) - c η ‖g‖² (Armijo). The number
    of times that it was shrunk is constant under differentiation.
    """

    domains = {"learning_rate": (0.0, float("inf"))}

    def __init__(
        self,
        learning_rate: float = 0.1,
        backtracking: bool = False,
        shrink: float = 0.5,
        decrease: float = 0.5,
        most_trials: int = 30,
    ):
        """Sets the constants.

        Args:
          learning_rate: η, the hyperparameter `learning_rate`.
          backtracking: Whether each step searches for its η, starting at `learning_rate`.
          shrink: The factor that multiplies η after a trial that did not suffice, in (0, 1).
          decrease: c, in (0, 1).
          most_trials: The largest number of trials in a step.

        Raises:
          ValueError: If a constant lies outside its domain.
        """
        self.constants = {"learning_rate": learning_rate}
        self.check()
        if not (0 < shrink < 1 and 0 < decrease < 1 and most_trials >= 1):
            raise ValueError(
                "Expected shrink and decrease in (0, 1) and most_trials >= 1, got "
                f"{shrink}, {decrease}, {most_trials}."
            )
        self.backtracking = backtracking
        self._shrink, self._decrease, self._most_trials = shrink, decrease, most_trials

    def init(self, weights: tf.Tensor, values: Mapping[str, tf.Tensor]) -> State:
        """See the base class; the state is the weights alone."""
        return {"weights": weights}

    def update(self, state: State, gradient: tf.Tensor, values: Mapping[str, tf.Tensor]) -> State:
        """See the base class."""
        return {"weights": state["weights"] - values["learning_rate"] * gradient}

    def pull(
        self,
        state: State,
        gradient: tf.Tensor,
        values: Mapping[str, tf.Tensor],
        after: State,
        adjoint: State,
        wanted: Collection[str],
    ) -> Pulled:
        """See the base class."""
        rate, a = values["learning_rate"], adjoint["weights"]
        slopes = {"learning_rate": -product_like(rate, a, gradient)} if wanted else {}
        return Pulled({"weights": a}, -rate * a, slopes)

    def scales(
        self,
        loss: StepLoss,
        point: tf.Tensor,
        value: tf.Tensor,
        gradient: tf.Tensor,
        values: Mapping[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """See the base class; the search multiplies η."""
        if not self.backtracking:
            return {}
        return {
            "learning_rate": self._search(loss, point, value, gradient, values["learning_rate"])
        }

    def __repr__(self) -> str:
        if not self.backtracking:
            return super().__repr__()
        return (
            f"{super().__repr__()[:-1]}, backtracking=True, shrink={self._shrink}, "
            f"decrease={self._decrease}, most_trials={self._most_trials})"
        )

    def _search(
        self,
        loss: StepLoss,
        weights: tf.Tensor,
        value: tf.Tensor,
        gradient: tf.Tensor,
        rate: tf.Tensor,
    ) -> tf.Tensor:
        # No tensor that is differentiated enters the loop.
        weights, value, gradient, rate = (
            tf.stop_gradient(tensor) for tensor in (weights, value, gradient, rate)
        )
        slope = tf.reduce_sum(rate * gradient * gradient)

        def too_long(_: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
            reached = loss.value(weights - factor * rate * gradient)
            return tf.logical_not(reached <= value - self._decrease * factor * slope)

        one = tf.ones([], weights.dtype)
        _, factor = tf.while_loop(
            too_long,
            lambda i, factor: (i + 1, factor * self._shrink),
            (tf.constant(0), one),
            maximum_iterations=self._most_trials,
        )
        return _cut(factor)


@tf.custom_gradient
def _cut(value: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], None]]:
    """Returns a constant: no derivative looks into how it was computed, not even R-forward's."""
    return tf.identity(value), lambda _: None
