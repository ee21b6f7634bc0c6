"""A run of meta-training of either kind: tasks in turns, the LSTMs' weights, files and time."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from mlhf.layout import Layout
from mlhf.meta_optimizer import weights_file
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_training.arguments import common_dtype
from mlhf.meta_training.steps import Steps
from mlhf.runs.checkpoints import load_like
from mlhf.runs.run import ResumableRun
from mlhf.task import Task, draw_missing_weights

# The names of the two methods in checkpoints.
BACKPROPAGATION = "backpropagation through rollouts"
EVOLUTION = "persistent evolution strategies"


class OneTask(Protocol):
    """What a run needs to know of the training of one task."""

    task: Task
    layout: Layout


Training = TypeVar("Training", bound=OneTask)


class MetaRun(Steps[MetaHessianFree], Generic[Training]):
    """What both methods' runs have in common.

    A subclass opens the files by `run.opening()` at the end of its constructor.

    Attributes:
      method: The method's name in checkpoints.
    """

    method: str

    def __init__(
        self,
        tasks: Sequence[Task],
        optimizer: MetaHessianFree,
        training_of: Callable[[Task, np.random.Generator], Training],
        *,
        steps: int,
        roll_back: int,
        meta_lr: float | Callable[[int], float],
        seed: int,
        first_seed: int,
        model_dir: str | Path | None,
        often: tuple[int, float],
    ) -> None:
        """Sets up everything except the files, from arguments of `meta_train` and `evolve`.

        `training_of` makes the training of a task, `first_seed` is the seed of parameters of which
        only shapes and kinds matter, and `often` is the steps and the minutes between checkpoints.
        """
        self.began = time.perf_counter()
        self.optimizer, self.generator = optimizer, np.random.default_rng(seed)
        self.steps, self.length, self.seed, self.often = steps, roll_back, seed, often
        self.meta_lr = meta_lr if callable(meta_lr) else lambda _: meta_lr
        draw_missing_weights(tasks, optimizer, first_seed)
        self.trainings = [training_of(task, self.generator) for task in tasks]
        layouts = [training.layout for training in self.trainings]
        self.dtype = common_dtype(layouts)
        self.kinds = sorted({kind for layout in layouts for kind in layout.kinds})
        self.weights = optimizer.weights_of(self.kinds, self.dtype)
        self.run = ResumableRun(
            model_dir, kind="a meta-training", other_kind="the training of a network"
        )

    @abc.abstractmethod
    def next_batches(self, number: int, turn: int) -> Any:
        """Returns the batches of a task's step number `turn`."""

    @abc.abstractmethod
    def step(self, number: int, batches: Any) -> dict[str, Any]:
        """Takes and counts a step on a task; returns the metrics."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds besides the signature and the weights."""

    @abc.abstractmethod
    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from the content of a checkpoint; the weights are restored already."""

    def signature(self) -> dict[str, Any]:
        """Returns the settings that a checkpoint must share with the run that continues it."""
        return {
            "task": "; ".join(training.task.name for training in self.trainings),
            "method": self.method,
            "rule": self.optimizer.rule.signature,
            "damping": float(self.optimizer.damping),
            "roll_back": self.length,
            "meta_lr": float(self.meta_lr(0)),
            "seed": self.seed,
            "kinds": str(self.kinds),
            "dtype": self.dtype.name,
        }

    def saved(self) -> None:
        """Called when a checkpoint is on disk."""

    def read(self) -> dict[str, Any] | None:
        """Returns the content of the newest checkpoint; None if there is none."""
        # Checkpoints without a method are older than evolution.
        return self.run.read(self.signature(), older={"method": BACKPROPAGATION})

    def take_over(self, saved: dict[str, Any]) -> None:
        """Goes on from the content of a checkpoint."""
        with self.run.restoring():
            self.weights = load_weights(self.weights, saved["weights"], "weights")
            self.restore(saved)

    def next_step(self) -> dict[str, Any]:
        """Takes a step on the task whose turn it is."""
        turn, number = divmod(self.run.done, len(self.trainings))
        batches = self.next_batches(number, turn)
        started = time.perf_counter()
        metrics = self.step(number, batches)
        if len(self.trainings) > 1:
            metrics["task"] = number
        metrics["seconds"] = time.perf_counter() - started
        return metrics

    def hand_over(self) -> None:
        """Gives the optimizer what was learned."""
        self.optimizer.set_weights(self.kinds, self.weights)

    def publish(self) -> None:
        """Gives the optimizer what was learned, and writes it to the folder of the run."""
        self.hand_over()
        if self.run.folder is not None:
            self.optimizer.save(self.run.folder / weights_file.FILE_IN_FOLDER)

    def save(self) -> None:
        """Writes a checkpoint, and then the trained optimizer."""
        content = {"weights": weights_as_saved(self.weights), **self.state()}
        self.run.write(self.signature(), content)
        self.saved()
        self.publish()


def load_weights(
    like: dict[str, LSTMWeights], saved: dict[str, Any], name: str
) -> dict[str, LSTMWeights]:
    """Loads what `weights_as_saved` returned, with the checks of `load_like`."""
    return load_like(like, {role: LSTMWeights(**saved[role]) for role in like}, name)


def weights_as_saved(weights: dict[str, LSTMWeights]) -> dict[str, Any]:
    """Returns weights by role in the form that checkpoints hold."""
    return {role: part._asdict() for role, part in weights.items()}
