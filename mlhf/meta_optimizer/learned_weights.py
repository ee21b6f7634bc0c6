"""The LSTMs' weights of an optimizer, by role and by kind of variable."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer import coordinate_lstm, live_weights
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.live_weights import LiveWeights
from mlhf.meta_optimizer.rule import Rule


class LearnedWeights:
    """The part of an optimizer with LSTMs that holds their weights."""

    rule: Rule

    def _begin_weights(self, seed: int, initial_damping: float | None) -> None:
        """Starts without weights.

        Args:
          seed: The seed of weights that are drawn.
          initial_damping: The initial damping, as for `MetaHessianFree`.
        """
        self._weights: dict[str, LSTMWeights] | None = None
        self._kinds: list[str] | None = None
        self._live = LiveWeights()
        self._seed, self._initial_damping = seed, initial_damping

    @property
    def kinds(self) -> list[str] | None:
        """The kinds that the weights are for."""
        return self._kinds

    @property
    def weights(self) -> dict[str, LSTMWeights] | None:
        """The LSTMs' weights by role."""
        return self._weights

    @weights.setter
    def weights(self, weights: dict[str, LSTMWeights]) -> None:
        if self._kinds is None:
            raise ValueError(
                "Expected weights after their kinds are known, from init(parameters), or with "
                "them: set_weights(kinds, weights)."
            )
        self.set_weights(self._kinds, weights)

    def draw_weights(self, kinds: list[str], dtype: Any = tf.float32) -> None:
        """Draws weights for the kinds that have none.

        `init` does so for the kinds of its parameters if there are no weights at all.

        Args:
          kinds: The kinds of variables that weights are needed for.
          dtype: The dtype of the weights.
        """
        missing = sorted(set(kinds) - set(self.kinds or []))
        if not missing:
            return
        # The weights outlive a function that is being traced.
        with tf.init_scope():
            drawn = {
                role: coordinate_lstm.initial_weights(
                    len(missing), self._seed + 1000 * number, tf.as_dtype(dtype)
                )
                for number, role in enumerate(self.rule.roles)
            }
            if self._initial_damping is not None and "d" in drawn:
                # The inverse of softplus, log(eˣ - 1).
                bias = self._initial_damping + math.log(-math.expm1(-self._initial_damping))
                drawn["d"] = drawn["d"]._replace(
                    dense_bias=tf.fill([len(missing)], tf.cast(bias, dtype))
                )
            self.set_weights(missing, drawn)

    def weights_for(self, layout: Layout) -> dict[str, LSTMWeights]:
        """Returns the weights of the kinds that a layout has, in its order and dtype."""
        self._check_kinds(layout)
        return self.weights_of(layout.kinds, layout.dtype)

    def weights_of(self, kinds: list[str], dtype: Any) -> dict[str, LSTMWeights]:
        """Returns the weights of some of the kinds, in the given order."""
        assert self.weights is not None and self.kinds is not None
        if not tf.executing_eagerly():
            return self._live.read(kinds, self.rule.roles, self.kinds, self.weights, dtype)
        rows = [self.kinds.index(kind) for kind in kinds]
        return {
            role: LSTMWeights(
                *[tf.cast(tf.gather(value, rows), dtype) for value in self.weights[role]]
            )
            for role in self.rule.roles
        }

    def set_weights(self, kinds: list[str], weights: dict[str, LSTMWeights]) -> None:
        """Sets trained weights; the weights of other kinds are kept.

        Args:
          kinds: The kinds, in the order of the weights' first axis.
          weights: The weights by role.

        Raises:
          ValueError: If they are not weights of these kinds for all roles of the rule.
        """
        live_weights.check(weights, self.rule.roles, kinds)
        old_kinds, old_weights = self.kinds or [], self.weights
        others = [kind for kind in old_kinds if kind not in kinds]
        if old_weights is not None and others:
            rows = [old_kinds.index(kind) for kind in others]
            weights = {
                role: LSTMWeights(
                    *[
                        tf.concat([new, tf.cast(tf.gather(old, rows), new.dtype)], 0)
                        for new, old in zip(value, old_weights[role], strict=True)
                    ]
                )
                for role, value in weights.items()
            }
        self._kinds, self._weights = [*kinds, *others], dict(weights)
        self._live.update(self._kinds, self._weights)

    def _check_kinds(self, layout: Layout) -> None:
        missing = sorted(set(layout.kinds) - set(self.kinds or []))
        if missing:
            raise ValueError(
                f"The network has variables of the kinds {missing}, and these weights were "
                f"trained for {self.kinds}. Meta-train on a network that has them, or say which "
                "kind serves them, with kinds= (for example "
                f'{{"path/of/variable": "{(self.kinds or [""])[0]}"}}).'
            )
