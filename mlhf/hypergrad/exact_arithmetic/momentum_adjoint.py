"""The adjoints of weights and velocity through steps of momentum, in NumPy.

With v' = μ v + p g and w' = w + m v' (`momentum.Form` says what p and m are), from dw and dv, the
adjoints of w' and v':

    dm = <dw, v'>;  dv += m dw
    dμ += <dv, v + ∂p/∂μ g>;  dη += ∂m/∂η dm + ∂p/∂η <dv, g>
    dw += H p dv;  dλ += ∂<g, p dv>/∂λ;  dv = μ dv
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import tensorflow as tf

from mlhf.hypergrad.dynamics.base import State
from mlhf.hypergrad.dynamics.momentum import Form
from mlhf.hypergrad.exact_arithmetic.factors import Factor, Factors

# Its square is finite.
_LARGEST = 1e150
RATE, MOMENTUM = "learning_rate", "momentum"


class MomentumAdjoint:
    """∂E/∂w and ∂E/∂v of one outer loss, on the way back.

    Attributes:
      dw: ∂E/∂w, float64 [P].
      dv: ∂E/∂v, float64 [P].
    """

    def __init__(
        self, form: Form, factors: Factors, wanted: Collection[str], in_weights: np.ndarray
    ):
        """Stands at the end of training.

        Args:
          form: The form of the momentum.
          factors: Learning rates and momenta.
          wanted: The names of the hyperparameters to differentiate.
          in_weights: ∂E/∂w there, [P].
        """
        self._form, self._factors = form, factors
        self._rate, self._momentum = RATE in wanted, MOMENTUM in wanted
        self._in_rate: list[np.ndarray] | None = None
        self.dw = in_weights.astype(np.float64)
        self.dv = np.zeros_like(self.dw)

    @property
    def norm(self) -> float:
        """‖∂E/∂w‖."""
        return float(np.linalg.norm(self.dw))

    def norm_over(self, moves: np.ndarray) -> float:
        """Returns ‖∂E/∂w‖ over the weights for which `moves` [P] is true."""
        return float(np.linalg.norm(self.dw[moves]))

    def bound(self, moves: np.ndarray) -> None:
        """Keeps the adjoints of weights that stand still (`moves` [P] false) from overflowing."""
        for adjoint in (self.dw, self.dv):
            np.clip(adjoint, -_LARGEST, _LARGEST, out=adjoint, where=~moves & np.isfinite(adjoint))

    def through_move(self, move: list[Factor], velocity: np.ndarray) -> None:
        """Goes back through w' = w + m v'.

        Args:
          move: m for each block.
          velocity: v', the velocity after the step, [P].
        """
        if self._rate and self._form.move_in_rate:
            self._in_rate = self._inner(RATE, self._form.move_in_rate, self.dw, velocity)
        self.dv = self.dv + self._factors.times(move, self.dw)

    def direction(self, push: list[Factor]) -> np.ndarray:
        """Returns u = p dv, the vector that the second derivatives of the loss multiply."""
        return self._factors.times(push, self.dv)

    def through_push(
        self,
        momentum: list[Factor],
        velocity: np.ndarray,
        gradient: np.ndarray,
        product: np.ndarray,
    ) -> dict[str, list[np.ndarray]]:
        """Goes back through v' = μ v + p g, after `through_move`.

        Args:
          momentum: μ for each block.
          velocity: v, the velocity before the step, [P].
          gradient: g, [P].
          product: H u, [P].

        Returns:
          The step's contributions to the gradients in η and μ, where they are wanted, by name.
        """
        contributions = {}
        if self._rate:
            if self._form.push_in_rate:
                self._in_rate = self._inner(RATE, self._form.push_in_rate, self.dv, gradient)
            assert self._in_rate is not None
            contributions[RATE] = self._in_rate
        if self._momentum:
            along = velocity + gradient if self._form.push_in_momentum else velocity
            contributions[MOMENTUM] = self._inner(MOMENTUM, 1.0, self.dv, along)
        self.dw = self.dw + product
        self.dv = self._factors.times(momentum, self.dv)
        return contributions

    def state(self, dtype: tf.DType) -> State:
        """Returns the adjoints by the names of a state of momentum."""
        return {"weights": tf.constant(self.dw, dtype), "velocity": tf.constant(self.dv, dtype)}

    def _inner(self, name: str, sign: float, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        return [sign * product for product in self._factors.inner(name, a, b)]
