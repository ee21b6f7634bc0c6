"""The result of meta-training."""

from __future__ import annotations

import dataclasses
from typing import Any

from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree


@dataclasses.dataclass
class MetaTraining:
    """The result of `meta_train` and `evolve`.

    Attributes:
      optimizer: The optimizer with the trained weights.
      history: The metrics, a dictionary for each meta-step whose record there is.
      skipped: Meta-steps that were not finite and left no trace in the weights.
      seconds_to_first_step: From the call to the end of the first meta-step, tracing included.
      diverged: Whether meta-training ended early because meta-steps stayed not finite.
      steps: Meta-steps done, those of a continued run included.
    """

    optimizer: MetaHessianFree
    history: list[dict[str, Any]]
    skipped: int
    seconds_to_first_step: float
    diverged: bool = False
    steps: int = 0
