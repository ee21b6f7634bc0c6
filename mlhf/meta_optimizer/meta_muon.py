"""CurvatureMuon with a learned controller: what the rule does, times what was learned."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlhf.checks.structures import check_path
from mlhf.meta_optimizer import controller_file, step_controller
from mlhf.meta_optimizer.step_controller import ControllerState, ControllerWeights
from mlhf.objective import Objective
from mlhf.optimizers.curvature_muon import Choices, CurvatureMuon, CurvatureMuonState, Seen
from mlhf.optimizers.settings import new_variable


class MetaMuonState(NamedTuple):
    """The state between steps."""

    rule: CurvatureMuonState
    controller: ControllerState


class MetaMuon(CurvatureMuon):
    """`mlhf.CurvatureMuon` with lengths and momentum multiplied by what a controller learned.

    The controller is a 2-layer LSTM, run once per tensor and step, and a linear map beside it. It
    sees scalars: how far training is, T and the batch size, the share of slopes that the next batch
    confirms, the loss beside what was predicted, and each tensor's share of the slope. With its
    weights at zero the steps are CurvatureMuon's. It has nothing to tune.

    Attributes:
      weights: The controller's weights, arrays; new weights hold from the next step on.
    """

    def __init__(
        self,
        horizon: int,
        *,
        weights: ControllerWeights | str | Path | None = None,
        every: int = 5,
        curvature_share: float = 0.25,
        excluded: Collection[str] = (),
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          horizon: T, the number of steps that training takes.
          weights: The controller's weights, or the file that `save` wrote them to; None for those
            that ship with the package, `"neutral"` for those that leave the rule as it is.
          every: The number of steps between measurements of the curvature after the first ten.
          curvature_share: The share of the batch that G is taken on, above 0 and at most 1.
          excluded: Kernels that Adam moves too, as for `mlhf.Muon`.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          FileNotFoundError: If there is no such file.
          ValueError: If a setting makes no sense, or the weights are not those of a controller.
        """
        super().__init__(
            horizon,
            every=every,
            curvature_share=curvature_share,
            excluded=excluded,
            jit_compile=jit_compile,
        )
        self._weights = ControllerWeights(
            *[
                new_variable(value, tf.float32, f"mlhf_controller_{name}")
                for name, value in _read(weights)._asdict().items()
            ]
        )

    @property
    def weights(self) -> ControllerWeights:
        """The controller's weights, arrays."""
        return ControllerWeights(*[variable.numpy() for variable in self._weights])

    @weights.setter
    def weights(self, weights: ControllerWeights) -> None:
        for variable, value in zip(self._weights, controller_file.checked(weights), strict=True):
            variable.assign(value)

    def save(self, path: str | Path) -> Path:
        """Writes the controller's weights to one file of a few kilobytes.

        Args:
          path: The path of the file; `.npz` is added if it is missing.

        Returns:
          The file's path.

        Raises:
          OSError: If it can't be written; nothing half-written is left.
        """
        check_path("the path of a file", path)
        return controller_file.write(path, self.weights)

    def _state_like(self, parameters: Any) -> Any:
        leaves = tf.nest.flatten(parameters)
        controller = step_controller.initial_state(len(leaves), leaves[0].dtype)
        return MetaMuonState(super()._state_like(parameters), controller)

    def _step(
        self,
        objective: Objective,
        parameters: Any,
        state: Any,
        numbers: dict[str, tf.Tensor],
    ) -> tuple[Any, ...]:
        return self._controlled(objective, parameters, state, numbers, self._weights)

    def step_in(
        self, objective: Objective, parameters: Any, state: MetaMuonState, weights: Any
    ) -> tuple[Any, MetaMuonState, Any, dict[str, tf.Tensor]]:
        """Takes a step as a function of all that it depends on, to be traced inside another.

        Args:
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The state before the step.
          weights: The controller's weights, tensors.

        Returns:
          New parameters, state and model state, and the metrics.
        """
        dtype = tf.nest.flatten(parameters)[0].dtype
        numbers = {name: tf.cast(getattr(self, name), dtype) for name in ("scale", "gain")}
        return self._controlled(objective, parameters, state, numbers, weights)

    def _controlled(
        self,
        objective: Objective,
        parameters: Any,
        state: Any,
        numbers: dict[str, tf.Tensor],
        weights: ControllerWeights,
    ) -> tuple[Any, MetaMuonState, Any, dict[str, tf.Tensor]]:
        forms = self._rule(parameters).forms
        after: list[ControllerState] = []

        def choose(seen: Seen) -> Choices:
            choices, new = step_controller.choose(
                weights,
                state.controller,
                seen,
                tf.nest.flatten(parameters),
                tf.nest.flatten(state.rule.direction),
                forms,
                self.horizon,
                objective.batch_size(),
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
        return moved, MetaMuonState(rule, controller), model_state, metrics


def _read(weights: Any) -> ControllerWeights:
    if weights is None:
        return controller_file.read(controller_file.SHIPPED)
    if isinstance(weights, str) and weights == "neutral":
        return step_controller.neutral_weights()
    if isinstance(weights, (list, tuple, np.ndarray)):
        return controller_file.checked(weights)
    check_path("the weights of a controller, or their file,", weights)
    return controller_file.read(weights)
