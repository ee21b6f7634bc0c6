"""CurvatureMuon with a learned controller: what the rule does, times what was learned."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.meta_optimizer import step_controller
from mlhf.meta_optimizer.step_controller import ControllerState, ControllerWeights
from mlhf.objective import Objective
from mlhf.optimizers.curvature_muon import Choices, CurvatureMuon, CurvatureMuonState, Seen
from mlhf.optimizers.settings import new_variable


class ControlledMuonState(NamedTuple):
    """The state between steps."""

    rule: CurvatureMuonState
    controller: ControllerState


class ControlledMuon(CurvatureMuon):
    """`mlhf.CurvatureMuon`, whose lengths and momentum a learned controller multiplies."""

    def __init__(
        self, horizon: int, weights: ControllerWeights | None = None, **settings: Any
    ) -> None:
        """Sets an optimizer up.

        Args:
          horizon: T, the number of steps that training takes.
          weights: The controller's weights; by default those that leave the rule as it is.
          **settings: The settings of `mlhf.CurvatureMuon`.
        """
        super().__init__(horizon, **settings)
        weights = step_controller.neutral_weights() if weights is None else weights
        self._weights = ControllerWeights(
            *[
                new_variable(value, tf.float32, f"mlhf_controller_{name}")
                for name, value in weights._asdict().items()
            ]
        )

    @property
    def weights(self) -> ControllerWeights:
        """The controller's weights, arrays."""
        return ControllerWeights(*[variable.numpy() for variable in self._weights])

    @weights.setter
    def weights(self, weights: ControllerWeights) -> None:
        for variable, value in zip(self._weights, weights, strict=True):
            variable.assign(value)

    def _state_like(self, parameters: Any) -> Any:
        leaves = tf.nest.flatten(parameters)
        controller = step_controller.initial_state(len(leaves), leaves[0].dtype)
        return ControlledMuonState(super()._state_like(parameters), controller)

    def _step(
        self,
        objective: Objective,
        parameters: Any,
        state: Any,
        numbers: dict[str, tf.Tensor],
    ) -> tuple[Any, ...]:
        forms = self._rule(parameters).forms
        batch = tf.nest.flatten(objective.inputs)[0].shape[0]
        after: list[ControllerState] = []

        def choose(seen: Seen) -> Choices:
            choices, new = step_controller.choose(
                self._weights,
                state.controller,
                seen,
                forms,
                self.horizon,
                batch,
                self._rise,
                self.momentum,
            )
            after.append(new)
            return choices

        moved, rule, model_state, metrics, slopes = self._advance(
            objective, parameters, state.rule, numbers, choose
        )
        # A batch that moved nothing is forgotten here as well.
        is_kept = rule.step > state.rule.step
        controller = tf.nest.map_structure(
            lambda new, old: tf.where(is_kept, new, old),
            after[0]._replace(slopes=tf.stack(slopes)),
            state.controller,
        )
        return moved, ControlledMuonState(rule, controller), model_state, metrics
