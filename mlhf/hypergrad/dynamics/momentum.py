"""Momentum, in each of the forms that go by this name."""

from __future__ import annotations

import tensorflow as tf

from mlhf.hypergrad.dynamics.base import Dynamics, Pulled, product_like

FORMS = ("M1", "M2", "M3", "M4")


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

    Nesterov's variant steps along the velocity once more: M1 w' = w + η (μ v' - (1-μ) g), M2
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
          nesterov: Whether it is Nesterov's variant.

        Raises:
          ValueError: For another form, or a constant outside its domain.
        """
        if form not in FORMS:
            raise ValueError(f"Expected form= one of {FORMS}, got {form!r}.")
        self.constants = {"learning_rate": learning_rate, "momentum": momentum}
        self.check()
        self.form, self.nesterov = form, nesterov

    def init(self, weights, values):
        """See the base class: a velocity of zero; for M3 the weights before."""
        if self.form == "M3":
            return {"weights": weights, "before": weights}
        return {"weights": weights, "velocity": tf.zeros_like(weights)}

    def with_velocity(self, state, velocity):
        """See the base class; for M3 the velocity is w - w₋."""
        if self.form == "M3":
            return {**state, "before": state["weights"] - velocity}
        return {**state, "velocity": velocity}

    def point(self, state, values):
        """See the base class: for Nesterov's M3 ahead of the weights."""
        if self.form == "M3" and self.nesterov:
            return self._ahead(state, values["momentum"])
        return state["weights"]

    def update(self, state, gradient, values):
        """See the base class."""
        w, g, rate, mu = state["weights"], gradient, values["learning_rate"], values["momentum"]
        if self.form == "M3":
            return {"weights": self._ahead(state, mu) - rate * g, "before": w}
        if self.form == "M1":
            push = -(1 - mu) * g
        elif self.form == "M2":
            push = g
        else:
            push = -rate * g
        v = mu * state["velocity"] + push
        along = mu * v + push if self.nesterov else v
        if self.form == "M1":
            w = w + rate * along
        elif self.form == "M2":
            w = w - rate * along
        else:
            w = w + along
        return {"weights": w, "velocity": v}

    def pull(self, state, gradient, values, after, adjoint, wanted):
        """See the base class."""
        if self.form == "M3" or self.nesterov:
            return super().pull(state, gradient, values, after, adjoint, wanted)
        g, rate, mu, v = gradient, values["learning_rate"], values["momentum"], state["velocity"]
        a, b = adjoint["weights"], adjoint["velocity"]
        slopes = {}
        if self.form == "M1":
            b = b + rate * a
            d_g = (mu - 1) * b
            if "learning_rate" in wanted:
                slopes["learning_rate"] = product_like(rate, a, after["velocity"])
            if "momentum" in wanted:
                slopes["momentum"] = product_like(mu, b, v + g)
        elif self.form == "M2":
            b = b - rate * a
            d_g = b
            if "learning_rate" in wanted:
                slopes["learning_rate"] = -product_like(rate, a, after["velocity"])
            if "momentum" in wanted:
                slopes["momentum"] = product_like(mu, b, v)
        else:
            b = b + a
            d_g = -rate * b
            if "learning_rate" in wanted:
                slopes["learning_rate"] = -product_like(rate, b, g)
            if "momentum" in wanted:
                slopes["momentum"] = product_like(mu, b, v)
        return Pulled({"weights": a, "velocity": mu * b}, d_g, slopes)

    def _ahead(self, state, mu):
        return state["weights"] + mu * (state["weights"] - state["before"])

    def __repr__(self) -> str:
        more = ", nesterov=True" if self.nesterov else ""
        return f"{super().__repr__()[:-1]}, form={self.form!r}{more})"
