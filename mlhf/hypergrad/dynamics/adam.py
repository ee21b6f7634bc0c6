"""Adam with ε inside the root, so that it can be differentiated."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mlhf.hypergrad.dynamics.base import Dynamics, State


class Adam(Dynamics):
    """Adam (Kingma and Ba 2015) with ε inside the root.

        m' = β₁ m + (1-β₁) g        v' = β₂ v + (1-β₂) g²
        w' = w - η √(1-Πβ₂) / (1-Πβ₁) · m' / √(v' + ε)

    With ε outside, the derivative of √v is infinite where a gradient was always zero. The products
    of all β so far are part of the state: with constant β they are the βᵗ of the paper, and with
    schedules the correction is still that of a weighted mean.
    """

    domains = {
        "learning_rate": (0.0, float("inf")),
        "beta1": (0.0, 1.0),
        "beta2": (0.0, 1.0),
    }

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon_root: float = 1e-8,
    ):
        """Sets the constants.

        Args:
          learning_rate: η, the hyperparameter `learning_rate`.
          beta1: β₁, the hyperparameter `beta1`.
          beta2: β₂, the hyperparameter `beta2`.
          epsilon_root: ε, positive; elsewhere √ε is called ε.

        Raises:
          ValueError: If a constant lies outside its domain.
        """
        self.constants = {"learning_rate": learning_rate, "beta1": beta1, "beta2": beta2}
        self.check()
        if not epsilon_root > 0:
            raise ValueError(
                f"Expected a positive epsilon_root, got {epsilon_root}: at 0 the derivative of "
                "the root is infinite where a gradient is zero."
            )
        self.epsilon_root = epsilon_root

    def init(self, weights: tf.Tensor, values: Mapping[str, tf.Tensor]) -> State:
        """See the base class; the moments are zeros and the products ones."""
        return {
            "weights": weights,
            "first": tf.zeros_like(weights),
            "second": tf.zeros_like(weights),
            "product1": tf.ones(values["beta1"].shape, weights.dtype),
            "product2": tf.ones(values["beta2"].shape, weights.dtype),
        }

    def update(self, state: State, gradient: tf.Tensor, values: Mapping[str, tf.Tensor]) -> State:
        """See the base class."""
        g, beta1, beta2 = gradient, values["beta1"], values["beta2"]
        first = beta1 * state["first"] + (1 - beta1) * g
        second = beta2 * state["second"] + (1 - beta2) * g * g
        product1, product2 = state["product1"] * beta1, state["product2"] * beta2
        rate = values["learning_rate"] * tf.sqrt(1 - product2) / (1 - product1)
        moved = state["weights"] - rate * first / tf.sqrt(second + self.epsilon_root)
        return {
            "weights": moved,
            "first": first,
            "second": second,
            "product1": product1,
            "product2": product2,
        }

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, epsilon_root={self.epsilon_root})"
