"""The steps of a run of meta-training, with what goes around each, and what comes of them."""

from __future__ import annotations

import abc
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_optimizer.meta_muon import MetaMuon
from mlhf.runs.run import ResumableRun

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


class Steps(abc.ABC, Generic[Trained]):
    """Steps until a run is finished: metrics, the log, the bar, checkpoints, an interruption.

    Attributes:
      run: The run.
      optimizer: The optimizer that is trained.
      steps: The total number of steps, those done included.
      often: The steps and the minutes between checkpoints.
      began: The time of the call, by `time.perf_counter`.
      description: The run's name in the progress bar.
      unit: A step's name in the progress bar.
    """

    run: ResumableRun
    optimizer: Trained
    steps: int
    often: tuple[int, float]
    began: float
    description: str
    unit: str

    @abc.abstractmethod
    def next_step(self) -> dict[str, Any]:
        """Takes and counts a step; returns its metrics, with its `seconds`."""

    @abc.abstractmethod
    def shown(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Returns what the progress bar shows."""

    @abc.abstractmethod
    def save(self) -> None:
        """Writes a checkpoint, and then the trained optimizer."""

    @abc.abstractmethod
    def hand_over(self) -> None:
        """Gives the optimizer what was learned."""

    @abc.abstractmethod
    def publish(self) -> None:
        """Gives the optimizer what was learned, and writes it to the folder of the run."""

    def go(
        self, progress: bool, on_step: Callable[[int, dict[str, Any]], None] | None
    ) -> MetaTraining[Trained]:
        """Takes the steps that are left."""
        run, first = self.run, math.nan
        going = run.going(
            self.save,
            self.steps,
            *self.often,
            progress=progress,
            unit=self.unit,
            desc=self.description,
        )
        with going as bar:
            try:
                while run.goes_on:
                    metrics = self.next_step()
                    if math.isnan(first):
                        first = time.perf_counter() - self.began
                    run.log.write(run.done, metrics)
                    if on_step is not None:
                        on_step(run.done, metrics)
                    bar.step(**self.shown(metrics))
                    run.save_if_due()
            finally:
                # The caller gets what was learned after an interruption, too.
                self.hand_over()
        self.publish()
        return MetaTraining(
            self.optimizer, run.log.lines, run.skipped, first, run.diverged, run.done
        )
