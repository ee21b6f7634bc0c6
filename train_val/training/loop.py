"""Training a network with any of the optimizers: a loop that can be killed and continued."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import mlhf
from mlhf.checks.arguments import check_choice, check_count
from mlhf.meta_optimizer.portable_state import from_portable, to_portable
from mlhf.optimizers.step import is_failed_factorization
from mlhf.runs.checkpoints import CheckpointError, Checkpoints, check_same_run, load_like, restoring
from mlhf.runs.progress import ProgressBar
from mlhf.runs.run_log import RunLog
from mlhf.runs.saving import Saving
from replay import PrioritizedReplay
from train_val.problems.image_problems import Problem

EXPERIENCE = "experience"
# After so many steps in a row that are not finite, the next ones will not be either.
LARGEST_SKIPS_IN_A_ROW = 20
# What normalisation has when a network is evaluated.
STATISTICS = ("population", "moving")


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """The result of `train`.

    Attributes:
      parameters: Where training ended, a dictionary from paths to tensors.
      model_state: What the network carries besides them; None if nothing.
      optimizer_state: For the next step.
      history: The metrics, a dictionary a step.
      steps: Steps done, those of a continued run included.
      skipped: Steps that were not finite and were not taken.
      diverged: Whether training ended early because steps stayed not finite.
      accuracy: On the test images at the end.
      training_loss: That of `Problem.training_loss` at the end, with the regularizer.
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
    those from before it, the optimizer's state begins anew (what drove it there is in it), and the
    step is counted in `skipped`. After 20 of them in a row training ends with what there is,
    `diverged`. So no checkpoint ever holds a NaN.

    With a `model_dir`, a run that was killed continues from its last checkpoint, and ends with the
    numbers of an uninterrupted one, bit for bit on one machine. Ctrl-C and SIGTERM end it after the
    step under way, with a checkpoint.

    Args:
      problem: The network and its images; batch k is that of `problem.task.batches(0)`.
      optimizer: `mlhf.MetaHessianFree`, `mlhf.HessianFree`, `mlhf.FirstOrder`, or another one with
        `init` and `step`.
      steps: In all, those of a continued run included.
      seed: Of the initial parameters.
      model_dir: Where checkpoints and metrics go; None keeps all in memory.
      save_steps: A checkpoint every so many steps, and at the end.
      save_minutes: A checkpoint after so many minutes, if they are over first; 0 for never.
      eval_steps: The test accuracy and `Problem.training_loss` every so many steps, as
        `test_accuracy` and `training_loss` in that step's metrics; None for the end only. The end
        has them in any case.
      record_experience: N, for N snapshots of the path at the steps 0, steps/N, 2 steps/N ... in
        the replay `model_dir/experience`, for `--experience` of meta-training.
      settings: What else a run that continues this one has to share with it.
      progress: Whether a progress bar is shown.
      on_step: Called with the steps done and the metrics, after each.
      on_not_finite: Called after a step that was not taken, with a function that repeats it (for
        `mlhf.debugging.name_not_finite`).
      statistics: What a network with batch normalisation is evaluated with: `"population"`, taken
        anew over training images at the weights as they are (`Problem.population_state`), or
        `"moving"`, the averages that training leaves, as the paper does. Training itself, the
        result's `model_state` and checkpoints have the moving ones in either case.

    Returns:
      Parameters, state and metrics. Each line of metrics has the optimizer's own, `loss` (on the
      step's batch, before the step), `seconds` (of the step alone) and `skipped`.

    Raises:
      ValueError: If an argument makes no sense.
      CheckpointError: If `model_dir` holds a checkpoint of another run.
      OSError: If `model_dir` can't be written.
    """
    run = _Run(
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
        return run.go(
            (save_steps, save_minutes),
            steps if eval_steps is None else check_count("eval_steps", eval_steps),
            progress,
            on_step or (lambda step, metrics: None),
            on_not_finite or (lambda repeat: None),
        )
    finally:
        run.close()


class _Run:
    """The edges of training: where it stands, its files and its clock."""

    def __init__(self, problem, optimizer, steps, seed, model_dir, snapshots, settings, statistics):
        if snapshots > steps:
            raise ValueError(
                f"Expected record_experience of at most the {steps} steps, got {snapshots}."
            )
        if snapshots and model_dir is None:
            raise ValueError("Expected a model_dir= to record the experience in, got None.")
        self.problem, self.optimizer, self.steps = problem, optimizer, steps
        self.statistics, self.evaluated = statistics, (-1, {"": 0.0})
        self.parameters = problem.task.initialize(seed)
        self.model_state = problem.task.initial_model_state() or None
        self.state = self._initial_state()
        self.done, self.skipped, self.skipped_in_a_row = 0, 0, 0
        self.experience: PrioritizedReplay | None = None
        self.recorded_at = {number * steps // snapshots for number in range(snapshots)}
        self.settings = {
            **settings,
            "seed": seed,
            "parameters": str({path: tuple(p.shape) for path, p in self.parameters.items()}),
            "optimizer": type(optimizer).__name__,
        }
        if snapshots:
            self.settings["record_experience"] = f"{snapshots} of {steps} steps"
        self.log = RunLog(None)
        self.checkpoints = None if model_dir is None else Checkpoints(model_dir, alone=True)
        self.folder = Path() if self.checkpoints is None else self.checkpoints.folder
        try:
            saved = None if self.checkpoints is None else self.checkpoints.read()
            if saved is not None:
                self._check(*saved)
            if snapshots:
                self.experience = _open_experience(self.folder / EXPERIENCE, snapshots, seed)
            if saved is not None:
                with restoring(self.folder, saved[0]):
                    self._restore(*saved)
            elif self.experience is not None:
                self.experience.clear()
            self.log = RunLog(model_dir, self.done)
        except BaseException:
            self.close()
            raise

    @property
    def diverged(self) -> bool:
        return self.skipped_in_a_row >= LARGEST_SKIPS_IN_A_ROW

    def go(self, often, eval_steps, progress, on_step, on_not_finite) -> TrainingResult:
        bar = ProgressBar(
            total=self.steps, initial=self.done, disable=not progress, desc=self.problem.name
        )
        saving = Saving(*often, done=self.done, signals=self.checkpoints is not None)
        batches = iter(self.problem.task.batches(self.done))
        with bar, saving:
            while self.done < self.steps and not self.diverged and not saving.stopping:
                self._record()
                inputs, targets = next(batches)
                metrics = self._advance(inputs, targets, on_not_finite)
                last = self.done == self.steps or self.diverged
                if last or self.done % eval_steps == 0:
                    metrics.update(self._evaluate())
                self.log.write(self.done, metrics)
                saving.after(self.done, self._save, last)
                on_step(self.done, metrics)
                bar.show(loss=f"{metrics['loss']:.3f}")
                if "test_accuracy" in metrics:
                    bar.show(accuracy=f"{metrics['test_accuracy']:.2%}")
                if self.skipped:
                    bar.show(skipped=self.skipped)
                bar.step()
            saving.finish(self.done, self._save)
        if self.experience is not None:
            self.experience.save()
        final = self._final()
        return TrainingResult(
            self.parameters,
            self.model_state,
            self.state,
            self.log.lines,
            self.done,
            self.skipped,
            self.diverged,
            final["test_accuracy"],
            final["training_loss"],
        )

    def close(self) -> None:
        self.log.close()
        if self.experience is not None:
            self.experience.close()
        if self.checkpoints is not None:
            self.checkpoints.close()

    def _initial_state(self) -> Any:
        if isinstance(self.optimizer, mlhf.MetaHessianFree):
            return self.optimizer.init(self.parameters, self.problem.task.variable_kinds())
        return self.optimizer.init(self.parameters)

    def _layout(self) -> Any:
        if isinstance(self.optimizer, mlhf.MetaHessianFree):
            return self.optimizer.layout(self.parameters)
        return None

    def _advance(self, inputs, targets, on_not_finite) -> dict[str, Any]:
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
            finite = bool(_all_finite(_watched(step)))
            metrics = {name: float(value) for name, value in step.metrics.items()}
        self.done += 1
        if finite:
            self.parameters, self.state, self.model_state = step[:3]
            self.skipped_in_a_row = 0
        else:
            on_not_finite(
                lambda: _untraced(self.optimizer).step(objective, self.parameters, self.state)
            )
            self.state = self._initial_state()
            self.skipped += 1
            self.skipped_in_a_row += 1
        return {**metrics, "skipped": self.skipped, "seconds": time.perf_counter() - started}

    def _evaluate(self) -> dict[str, float]:
        state = self.model_state
        if self.statistics == "population":
            state = self.problem.population_state(self.parameters, state)
        found = {
            "test_accuracy": self.problem.accuracy(self.parameters, state),
            "training_loss": self.problem.training_loss(self.parameters, state),
        }
        self.evaluated = self.done, found
        return found

    def _final(self) -> dict[str, float]:
        # A line of an earlier process may have been measured with other statistics.
        step, found = self.evaluated
        return found if step == self.done else self._evaluate()

    def _record(self) -> None:
        if self.experience is not None and self.done in self.recorded_at:
            snapshot = {"parameters": self.parameters, "model_state": self.model_state or ()}
            self.experience.add(tf.nest.map_structure(np.asarray, snapshot), 1.0)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        self.log.flush()
        recorded = {} if self.experience is None else self.experience.state()
        self.checkpoints.write(
            self.done,
            {
                "settings": self.settings,
                "parameters": self.parameters,
                "model_state": self.model_state or {},
                "optimizer_state": to_portable(self.state, self._layout()),
                "skipped": [self.skipped, self.skipped_in_a_row],
                "experience": recorded,
            },
        )
        if self.experience is not None:
            self.experience.commit(recorded)

    def _check(self, step: int, saved: dict[str, Any]) -> None:
        found = saved.get("settings")
        if not isinstance(found, Mapping):
            raise CheckpointError(
                f"Expected the checkpoints of a training in {self.folder}, found those "
                "of something else (a meta-training?); give another folder."
            )
        place = f"The checkpoint of step {step} in {self.folder}"
        check_same_run(place, found, self.settings)

    def _restore(self, step: int, saved: dict[str, Any]) -> None:
        try:
            kept, layout = saved["optimizer_state"], self._layout()
            state = from_portable(kept, self.state, layout, finite=True)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"The checkpoint of step {step} in {self.folder} does not fit the "
                f"optimizer ({error}) Give the flags that it was made with, or another folder."
            ) from error
        self.done, self.state = step, state
        self.parameters = load_like(self.parameters, saved["parameters"], "parameters")
        if self.model_state is not None:
            self.model_state = load_like(self.model_state, saved["model_state"], "model_state")
        self.skipped, self.skipped_in_a_row = (int(number) for number in saved["skipped"])
        if self.experience is not None:
            self.experience.restore(saved["experience"])


def _open_experience(folder: Path, capacity: int, seed: int) -> PrioritizedReplay:
    # All have one priority and are drawn alike, which only the proportional kind does.
    try:
        return PrioritizedReplay(capacity, folder, "proportional", seed=seed)
    except RuntimeError as error:
        raise CheckpointError(f"Another run uses {folder} ({error}).") from error


def _untraced(optimizer: Any) -> Any:
    """Returns a copy of an optimizer that compiles its step anew, without XLA."""
    return optimizer.without_xla() if hasattr(optimizer, "without_xla") else copy.copy(optimizer)


def _watched(step: mlhf.Step) -> list[tf.Tensor]:
    """Returns the floating tensors of a step that have to be finite."""
    state = step.state
    if isinstance(state, mlhf.MetaState):
        # Most of the memory, and finite where the solution is: what they hold is bounded.
        state = state._replace(lstm={})
    structure = (step.metrics["loss"], step.parameters, state, step.model_state)
    leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(structure) if leaf is not None]
    return [leaf for leaf in leaves if leaf.dtype.is_floating]


@tf.function(autograph=False)
def _all_finite(leaves: list[tf.Tensor]) -> tf.Tensor:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(leaf)) for leaf in leaves])
