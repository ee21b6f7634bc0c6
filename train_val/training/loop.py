"""Trains a network with any of the optimizers, in a loop that can be killed and continued."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import mlhf
from mlhf.checks.arguments import check_choice, check_count
from mlhf.optimizers.protocol import complete
from mlhf.optimizers.step import is_failed_factorization
from mlhf.runs.checkpoints import CheckpointError, load_like
from mlhf.runs.run import ResumableRun
from replay import PrioritizedReplay
from train_val.problems.problem import Problem
from train_val.training.processes import Processes

EXPERIENCE = "experience"
# The statistics of normalisation when a network is evaluated.
STATISTICS = ("population", "moving")


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """The result of `train`.

    Attributes:
      parameters: The parameters at the end, a dictionary from paths to tensors: those to evaluate,
        which schedule-free optimizers average.
      model_state: The rest of the network's state; None if there is none.
      optimizer_state: The optimizer's state for the next step.
      history: The metrics, a dictionary for each step.
      steps: The number of steps done, including those of the run that was continued.
      skipped: The number of steps that were not finite and were not taken.
      diverged: Whether training ended early because steps stayed not finite.
      accuracy: The accuracy on the test images at the end.
      training_loss: The value of `Problem.training_loss` at the end, with the regularizer.
    """

    parameters: dict[str, tf.Tensor]
    model_state: dict[str, tf.Tensor] | None
    optimizer_state: Any
    history: list[dict[str, Any]]
    steps: int
    skipped: int
    diverged: bool
    accuracy: float
    training_loss: float


def train(
    problem: Problem,
    optimizer: Any,
    steps: int,
    *,
    seed: int = 1,
    model_dir: str | Path | None = None,
    save_steps: int = 1000,
    save_minutes: float = 5.0,
    eval_steps: int | None = None,
    record_experience: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
    on_step: Callable[[int, dict[str, Any]], None] | None = None,
    on_not_finite: Callable[[Callable[[], Any]], None] | None = None,
    statistics: str = "population",
) -> TrainingResult:
    """Trains a problem's network.

    A step whose loss or result is not finite is not taken: the parameters and the model state stay
    as they were, the optimizer's state is reset (it contains what caused the step), and the step is
    counted in `skipped`. After 20 of them in a row training ends as `diverged`, with what there is.
    So no checkpoint ever holds a NaN.

    With a `model_dir`, a run that was killed continues from its last checkpoint and ends with the
    numbers of an uninterrupted one, bit for bit on one machine. Ctrl-C and SIGTERM end it after the
    current step, with a checkpoint.

    With an `mlhf.distribute.DataParallel` of several processes each takes its part of every batch.
    The first one alone writes to its `model_dir` and shows progress; the others continue from where
    it is.

    Args:
      problem: The network and its images; the batches are `problem.task.batches(0)`.
      optimizer: `mlhf.MetaHessianFree`, `mlhf.HessianFree`, `mlhf.FirstOrder`, or another one with
        `init` and `step`.
      steps: The number of steps in all, including those of the run that is continued.
      seed: The seed of the initial parameters.
      model_dir: The folder for checkpoints and metrics; None keeps everything in memory.
      save_steps: Steps between two checkpoints; there is one at the end too.
      save_minutes: Minutes after which a checkpoint is written even before `save_steps`; 0 for
        never.
      eval_steps: Steps between two evaluations, which add `test_accuracy` and `training_loss`
        (`Problem.training_loss`) to the metrics of a step; None for the end only, which always has
        them.
      record_experience: N, to record N snapshots at the steps 0, steps/N, 2 steps/N ... in the
        replay `model_dir/experience`, for `--experience` of meta-training.
      settings: Anything else that a run must share with the run that continues it.
      progress: Whether a progress bar is shown.
      on_step: Called after each step with the number of steps done and the metrics.
      on_not_finite: Called after a step that was not taken, with a function that repeats it (for
        `mlhf.runs.debugging.name_not_finite`).
      statistics: The statistics of batch normalisation in evaluations: `"population"`, computed
        anew over training images at the current weights (`Problem.population_state`), or
        `"moving"`, the averages that training leaves, as in the paper. Training itself, the
        result's `model_state` and checkpoints have the moving ones in either case.

    Returns:
      Parameters, state and metrics. The metrics of a step are those of the optimizer, `loss` (on
      the step's batch, before the step), `seconds` (of the step alone) and `skipped`.

    Raises:
      ValueError: If an argument makes no sense.
      CheckpointError: If `model_dir` holds a checkpoint of another run.
      OSError: If `model_dir` can't be written.
    """
    training = _Training(
        problem,
        optimizer,
        check_count("steps", steps),
        check_count("seed", seed, 0),
        model_dir,
        check_count("record_experience", record_experience, 0),
        dict(settings or {}),
        check_choice("statistics", statistics, STATISTICS),
    )
    try:
        return training.go(
            (save_steps, save_minutes),
            steps if eval_steps is None else check_count("eval_steps", eval_steps),
            progress,
            on_step or (lambda step, metrics: None),
            on_not_finite or (lambda repeat: None),
        )
    finally:
        training.run.close()


class _Training:
    """A training: its position, its steps, and the experience that it records."""

    def __init__(
        self,
        problem: Problem,
        optimizer: Any,
        steps: int,
        seed: int,
        model_dir: str | Path | None,
        snapshots: int,
        settings: dict[str, Any],
        statistics: str,
    ) -> None:
        self.processes = Processes(optimizer)
        if not self.processes.is_first:
            model_dir, snapshots = None, 0
        if snapshots > steps:
            raise ValueError(
                f"Expected record_experience of at most the {steps} steps, got {snapshots}."
            )
        if snapshots and model_dir is None:
            raise ValueError("Expected a model_dir= to record the experience in, got None.")
        self.problem, self.optimizer, self.steps = problem, complete(optimizer), steps
        self.statistics, self.evaluated = statistics, (-1, {"": 0.0})
        self.parameters = problem.task.initialize(seed)
        self.model_state = problem.task.initial_model_state() or None
        self.state = self._initial_state()
        self.experience: PrioritizedReplay | None = None
        self.recorded_at = {number * steps // snapshots for number in range(snapshots)}
        self.settings = {
            **settings,
            "seed": seed,
            "parameters": str({path: tuple(p.shape) for path, p in self.parameters.items()}),
            "optimizer": self.processes.optimizer_name,
        }
        if snapshots:
            self.settings["record_experience"] = f"{snapshots} of {steps} steps"
        self.run = ResumableRun(
            model_dir,
            kind="a training",
            other_kind="a meta-training",
            entry="settings",
            in_any_process=self.processes.in_any if self.processes.are_several else None,
        )
        with self.run.opening():
            saved = self.run.read(self.settings)
            if snapshots:
                self.experience = self._open_experience(snapshots, seed)
            if saved is not None:
                with self.run.restoring():
                    self._restore(saved)
            elif self.experience is not None:
                self.experience.clear()
            run = self.run
            at = [run.done, run.skipped, run.skipped_in_a_row]
            run.done, run.skipped, run.skipped_in_a_row = self.processes.of_first(at)

    def _open_experience(self, capacity: int, seed: int) -> PrioritizedReplay:
        folder = (self.run.folder or Path()) / EXPERIENCE
        # All have one priority and are drawn equally often, as only the proportional kind does.
        try:
            experience = PrioritizedReplay(capacity, folder, "proportional", seed=seed)
        except RuntimeError as error:
            raise CheckpointError(f"Another run uses {folder} ({error}).") from error
        self.run.at_close(experience.close)
        return experience

    def go(
        self,
        often: tuple[int, float],
        eval_steps: int,
        progress: bool,
        on_step: Callable[[int, dict[str, Any]], None],
        on_not_finite: Callable[[Callable[[], Any]], None],
    ) -> TrainingResult:
        run, name = self.run, self.problem.name
        progress = progress and self.processes.is_first
        going = run.going(self._save, self.steps, *often, progress=progress, desc=name)
        with going as bar, self._saved_if_lost():
            batches = iter(self.problem.task.batches(run.done))
            while run.goes_on:
                self._record()
                inputs, targets = self.processes.part(next(batches))
                metrics = self._advance(inputs, targets, on_not_finite)
                if run.finished or run.done % eval_steps == 0:
                    metrics.update(self._evaluate())
                run.log.write(run.done, metrics)
                run.save_if_due()
                on_step(run.done, metrics)
                bar.show(loss=f"{metrics['loss']:.3f}")
                if "test_accuracy" in metrics:
                    bar.show(accuracy=f"{metrics['test_accuracy']:.2%}")
                if run.skipped:
                    bar.show(skipped=run.skipped)
                bar.step()
        if self.experience is not None:
            self.experience.save()
        final = self._final()
        return TrainingResult(
            self._evaluated_parameters(),
            self.model_state,
            self.state,
            run.log.lines,
            run.done,
            run.skipped,
            run.diverged,
            final["test_accuracy"],
            final["training_loss"],
        )

    @contextlib.contextmanager
    def _saved_if_lost(self) -> Iterator[None]:
        """Saves before the error when another process is gone: the steps so far are whole."""
        try:
            yield
        except ConnectionError:
            self._save()
            raise

    def _initial_state(self) -> Any:
        return self.optimizer.init_for(self.problem.task, self.parameters)

    def _advance(
        self, inputs: Any, targets: Any, on_not_finite: Callable[[Callable[[], Any]], None]
    ) -> dict[str, Any]:
        started = time.perf_counter()
        objective = self.problem.task.objective(inputs, targets, self.model_state)
        metrics = {"loss": math.nan}
        finite = False
        try:
            step = self.optimizer.step(objective, self.parameters, self.state)
        except tf.errors.InvalidArgumentError as error:
            if not is_failed_factorization(error):
                raise
        else:
            finite = bool(_all_finite(self._watched(step)))
            metrics = {name: float(value) for name, value in step.metrics.items()}
        self.run.count_step(finite)
        if finite:
            self.parameters, self.state, self.model_state = step[:3]
        else:
            on_not_finite(
                lambda: self.optimizer.without_xla().step(objective, self.parameters, self.state)
            )
            self.state = self._initial_state()
        return {**metrics, "skipped": self.run.skipped, "seconds": time.perf_counter() - started}

    def _watched(self, step: mlhf.Step) -> list[tf.Tensor]:
        """Returns the floating tensors of a step that have to be finite."""
        state = self.optimizer.finite_part(step.state)
        structure = (step.metrics["loss"], step.parameters, state, step.model_state)
        leaves = [tf.convert_to_tensor(x) for x in tf.nest.flatten(structure) if x is not None]
        return [leaf for leaf in leaves if leaf.dtype.is_floating]

    def _evaluate(self) -> dict[str, float]:
        parameters, state = self._evaluated_parameters(), self.model_state
        if self.statistics == "population":
            state = self.problem.population_state(parameters, state)
        evaluation = {
            "test_accuracy": self.problem.accuracy(parameters, state),
            "training_loss": self.problem.training_loss(parameters, state),
        }
        self.evaluated = self.run.done, evaluation
        return evaluation

    def _evaluated_parameters(self) -> dict[str, tf.Tensor]:
        """Returns the parameters to evaluate and to keep, which some optimizers average."""
        averaged: dict[str, tf.Tensor] = self.optimizer.evaluation_parameters(
            self.parameters, self.state
        )
        return averaged

    def _final(self) -> dict[str, float]:
        # An earlier process may have measured its last line with other statistics.
        step, evaluation = self.evaluated
        return evaluation if step == self.run.done else self._evaluate()

    def _record(self) -> None:
        if self.experience is not None and self.run.done in self.recorded_at:
            snapshot = {"parameters": self.parameters, "model_state": self.model_state or ()}
            self.experience.add(tf.nest.map_structure(np.asarray, snapshot), 1.0)

    def _save(self) -> None:
        recorded = {} if self.experience is None else self.experience.state()
        content = {
            "parameters": self.parameters,
            "model_state": self.model_state or {},
            "optimizer_state": self.optimizer.to_saved(self.state, self.parameters),
            "skipped": [self.run.skipped, self.run.skipped_in_a_row],
            "experience": recorded,
        }
        self.run.write(self.settings, content)
        if self.experience is not None:
            self.experience.commit(recorded)

    def _restore(self, saved: dict[str, Any]) -> None:
        try:
            content = saved["optimizer_state"]
            state = self.optimizer.from_saved(content, self.state, self.parameters, finite=True)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"The checkpoint of step {self.run.done} in {self.run.folder} does not fit the "
                f"optimizer ({error}) Give the flags that it was made with, or another folder."
            ) from error
        self.state = state
        self.parameters = load_like(self.parameters, saved["parameters"], "parameters")
        if self.model_state is not None:
            self.model_state = load_like(self.model_state, saved["model_state"], "model_state")
        run = self.run
        run.skipped, run.skipped_in_a_row = (int(number) for number in saved["skipped"])
        if self.experience is not None:
            self.experience.restore(saved["experience"])


@tf.function(autograph=False)
def _all_finite(leaves: list[tf.Tensor]) -> tf.Tensor:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(leaf)) for leaf in leaves])
