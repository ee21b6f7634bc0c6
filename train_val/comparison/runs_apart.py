"""Runs of a comparison in other processes, several at once."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mlhf.checks.arguments import check_executor
from train_val.comparison.runs import Curve, run
from train_val.comparison.specifications import parse
from train_val.problems.problem import Problem
from train_val.task_families import problem_of


class Request(NamedTuple):
    """A run to be made.

    Attributes:
      optimizer: The line of text that `parse` reads.
      setting: Values of the tuned settings.
      seed: The seed of the run.
      steps: The number of steps.
      every: Steps between measurements.
      also: Further steps to measure at.
      accuracy: Whether the test accuracy is measured too.
    """

    optimizer: str
    setting: dict[str, Any]
    seed: int
    steps: int
    every: int
    also: tuple[int, ...]
    accuracy: bool


@dataclasses.dataclass(frozen=True)
class RunsApart:
    """Makes the runs that `scoreboard` asks for by an executor, such as one with processes.

    Their curves are those that this process would measure, except for the seconds, which other runs
    beside them lengthen.

    Attributes:
      executor: Anything with `map(function, *iterables)`, such as
        `mlhf.distribute.ProcessExecutor(jobs)`.
      problem: The arguments of `train_val.task_families.problem_of`.
      statistics: The statistics of normalisation, as `Problem.statistics`.
      meta_ckpt: The meta-optimizer, as for `parse`.

    Raises:
      TypeError: If the executor has no `map`.
    """

    executor: Any
    problem: Mapping[str, Any]
    statistics: str = "population"
    meta_ckpt: str | None = None

    def __post_init__(self) -> None:
        check_executor(self.executor)

    def __call__(self, requests: Sequence[Request]) -> Iterable[Curve]:
        """Returns the curves of runs, in their order, each as soon as it and those before are."""
        about = json.dumps(dict(self.problem)), self.statistics, self.meta_ckpt
        curves: Iterable[Curve] = self.executor.map(functools.partial(_run, *about), requests)
        return curves


def _run(problem: str, statistics: str, meta_ckpt: str | None, request: Request) -> Curve:
    optimizer = parse(request.optimizer, meta_ckpt).optimizer(request.setting, request.steps)
    return run(
        _problem(problem, statistics),
        optimizer,
        request.seed,
        request.steps,
        request.every,
        also=request.also,
        accuracy=request.accuracy,
    )


# A process makes many runs of one problem.
@functools.lru_cache(maxsize=1)
def _problem(arguments: str, statistics: str) -> Problem:
    return dataclasses.replace(problem_of(json.loads(arguments)), statistics=statistics)
