"""The result of meta-training."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_optimizer.meta_muon import MetaMuon

Trained = TypeVar("Trained", MetaHessianFree, MetaMuon)


@dataclasses.dataclass
class MetaTraining(Generic[Trained]):
    """The result of `meta_train`, `evolve` and `evolve_controller`.

    Attributes:
      optimizer: The optimizer with the trained weights.
      history: The metrics, a dictionary for each meta-step on record.
      skipped: The number of meta-steps that were not finite and left the weights unchanged.
      seconds_to_first_step: The time from the call to the end of the first meta-step, with tracing.
      diverged: Whether meta-training ended early after too many meta-steps that were not finite.
      steps: The number of meta-steps done, those of a continued run included.
    """

    optimizer: Trained
    history: list[dict[str, Any]]
    skipped: int
    seconds_to_first_step: float
    diverged: bool = False
    steps: int = 0
