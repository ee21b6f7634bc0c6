"""Momentum, in each of the forms that go by this name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.hypergrad.dynamics.base import Dynamics, Pulled, State, product_like

Factor = Any  # a float, an array or a tensor


class Form(NamedTuple):
    """How a form uses learning rate η and momentum μ: v' = μ v + p g, w' = w + m v'.

    Attributes:
      push: From η and μ to p, the factor of the gradient.
      move: From η to m, the factor of the new velocity.
      move_in_rate: ∂m/∂η.
      push_in_rate: ∂p/∂η.
      push_in_momentum: ∂p/∂μ.
    """

    push: Callable[[Factor, Factor], Factor]
    move: Callable[[Factor], Factor]
    move_in_rate: float
    push_in_rate: float
    push_in_momentum: float


# The forms whose state is a velocity; M3 keeps the weights before instead.
FORMS = {
    "M1": Form(lambda rate, mu: -(1 - mu), lambda rate: rate, 1.0, 0.0, 1.0),
    "M2": Form(lambda rate, mu: 1.0, lambda rate: -rate, -1.0, 0.0, 0.0),
    "M4": Form(lambda rate, mu: -rate, lambda rate: 1.0, 0.0, -1.0, 0.0),
}
NAMES = ("M1", "M2", "M3", "M4")


class Momentum(Dynamics):
    """Gradient descent with momentum: learning rate η, momentum μ, gradient g.

    | form | step                                   | used by                       |
    |------|----------------------------------------|-------------------------------|
    | M1   | v' = μ v - (1-μ) g,  w' = w + η v'     | Maclaurin et al. 2015         |
    | M2   | v' = μ v + g,        w' = w - η v'     | PyTorch, Franceschi et al.    |
    | M3   | w' = w - η g + μ (w - w₋)              | the heavy ball of Polyak      |
    | M4   | v' = μ v - η g,      w' = w + v'       | Keras                         |

    With constants they are the same up to a scale of η (M1) and of v. With schedules M1, M2 and M4
    are different algorithms, with different hypergradients; M3 is M4 with v = w - w₋.

    Nesterov's variant moves along the velocity once more: M1 w' = w + η (μ v' - (1-μ) g), M2
    w' = w - η (μ v' + g), M4 w' = w + μ v' - η g; M3 takes the gradient at w + μ (w - w₋).
    """

    domains = {"learning_rate": (0.0, float("inf")), "momentum": (0.0, 1.0)}

    def __init__(
        self,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        form: str = "M2",
        nesterov: bool = False,
    ):
        """Sets the constants.

        Args:
          learning_rate: η, the hyperparameter `learning_rate`.
          momentum: μ, the hyperparameter `momentum` (the decay of M1's velocity).
          form: `"M1"`, `"M2"`, `"M3"` or `"M4"`.
          nesterov: Whether to use Nesterov's variant.

        Raises:
          ValueError: If the form is another, or a constant lies outside its domain.
        """
        if form not in NAMES:
            raise ValueError(f"Expected form= one of {NAMES}, got {form!r}.")
        self.constants = {"learning_rate": learning_rate, "momentum": momentum}
        self.check()
        self.form, self.nesterov = form, nesterov

    def init(self, weights: tf.Tensor, values: Mapping[str, tf.Tensor]) -> State:
        """See the base class; the velocity is zero, and M3 has the weights before instead."""
        if self.form == "M3":
            return {"weights": weights, "before": weights}
        return {"weights": weights, "velocity": tf.zeros_like(weights)}

    def with_velocity(self, state: State, velocity: tf.Tensor) -> State:
        """See the base class; for M3 the velocity is w - w₋."""
        if self.form == "M3":
            return {**state, "before": state["weights"] - velocity}
        return {**state, "velocity": velocity}

    def point(self, state: State, values: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """See the base class; for Nesterov's M3 a point ahead of the weights."""
        if self.form == "M3" and self.nesterov:
            return self._ahead(state, values["momentum"])
        return state["weights"]

    def update(self, state: State, gradient: tf.Tensor, values: Mapping[str, tf.Tensor]) -> State:
        """See the base class."""
        w, g, rate, mu = state["weights"], gradient, values["learning_rate"], values["momentum"]
        if self.form == "M3":
            return {"weights": self._ahead(state, mu) - rate * g, "before": w}
        form = FORMS[self.form]
        push = _times(form.push(rate, mu), g)
        v = mu * state["velocity"] + push
        along = mu * v + push if self.nesterov else v
        return {"weights": w + _times(form.move(rate), along), "velocity": v}

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
        if self.form == "M3" or self.nesterov:
            return super().pull(state, gradient, values, after, adjoint, wanted)
        form = FORMS[self.form]
        g, rate, mu, v = gradient, values["learning_rate"], values["momentum"], state["velocity"]
        a = adjoint["weights"]
        b = adjoint["velocity"] + _times(form.move(rate), a)
        slopes = {}
        if "learning_rate" in wanted:
            slopes["learning_rate"] = (
                form.move_in_rate * product_like(rate, a, after["velocity"])
                if form.move_in_rate
                else form.push_in_rate * product_like(rate, b, g)
            )
        if "momentum" in wanted:
            slopes["momentum"] = product_like(mu, b, v + g if form.push_in_momentum else v)
        in_gradient = _times(form.push(rate, mu), b)
        return Pulled({"weights": a, "velocity": mu * b}, in_gradient, slopes)

    def _ahead(self, state: State, mu: tf.Tensor) -> tf.Tensor:
        return state["weights"] + mu * (state["weights"] - state["before"])

    def __repr__(self) -> str:
        more = ", nesterov=True" if self.nesterov else ""
        return f"{super().__repr__()[:-1]}, form={self.form!r}{more})"


def _times(factor: Factor, vector: tf.Tensor) -> tf.Tensor:
    """Returns factor · vector, without an operation for a factor of one."""
    return vector if isinstance(factor, float) and factor == 1 else factor * vector
