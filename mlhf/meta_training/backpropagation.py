"""Meta-training: a run of meta-steps that begin at replayed snapshots."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_count, check_number
from mlhf.checks.structures import kind
from mlhf.meta_optimizer import weights_file
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_training import adam
from mlhf.meta_training.inner_training import Course
from mlhf.meta_training.meta_run import (
    BACKPROPAGATION,
    MetaTraining,
    check_callbacks,
    check_learnable,
    check_signature,
    common_dtype,
    tasks_of,
)
from mlhf.meta_training.meta_step import MetaStep, meta_step
from mlhf.runs.checkpoints import CheckpointError, Checkpoints, load_like, restoring
from mlhf.runs.progress import ProgressBar
from mlhf.runs.run_log import RunLog
from mlhf.runs.saving import Saving
from mlhf.task import Task, draw_missing_weights
from replay import PrioritizedReplay

REPLAY_CAPACITY = 200
# After so many meta-steps in a row that are not finite, the next ones will not be either.
LARGEST_SKIPS_IN_A_ROW = 20


def meta_train(
    task: Task | Sequence[Task],
    optimizer: MetaHessianFree,
    steps: int,
    *,
    roll_back: int = 10,
    meta_lr: float | Callable[[int], float] = 1e-3,
    keep_prob: float = 0.5,
    seed: int = 0,
    model_dir: str | Path | None = None,
    save_steps: int = 1000,
    save_minutes: float = 5.0,
    replay: PrioritizedReplay | None = None,
    experience: PrioritizedReplay | None = None,
    jit_compile: bool = False,
    unrolled: bool = False,
    progress: bool = True,
    on_step: Callable[[int, dict[str, Any]], None] | None = None,
    on_not_finite: Callable[[Callable[[], Any]], None] | None = None,
) -> MetaTraining:
    """Meta-trains an optimizer's LSTMs on a task (Chen, Lu and Fokoue 2018, arXiv 1805.08462).

    A meta-step rolls the task's training forward by `roll_back` steps and moves the LSTMs' weights
    by Adam along the gradient of both meta losses. Between meta-steps training goes on with
    probability `keep_prob`; otherwise it begins again at a snapshot that the prioritized replay
    draws. It also begins again after a meta-step that is not finite, which leaves the weights as
    they are and is counted in `skipped`; after 20 of them in a row meta-training ends.

    Of a mixture of tasks each meta-step takes one, in turns. They share the LSTMs' weights and
    Adam; each has its point, its replay and its compiled meta-step. A kind of variable that a task
    does not have gets no gradient from it; one that the optimizer has no weights for is drawn new.

    With a `model_dir`, a run that was killed continues from its last checkpoint and ends with the
    numbers of an uninterrupted one, bit for bit on one machine. Ctrl-C and SIGTERM end it after the
    meta-step under way, with a checkpoint.

    Args:
      task: What is trained; or several, of one dtype.
      optimizer: Its weights are trained in place; its `learning_rate` is the rollouts'.
      steps: Meta-steps in all, those of a continued run included.
      roll_back: T, the steps of a rollout.
      meta_lr: Adam's step size, or a function of the number of meta-steps done.
      keep_prob: Between 0 and 1.
      seed: Of the initial parameters, the noise and the replay.
      model_dir: Where checkpoints, metrics, the replay and the trained optimizer go; None keeps
        all in memory.
      save_steps: A checkpoint every so many meta-steps, and at the end.
      save_minutes: A checkpoint after so many minutes, if they are over first; 0 for never.
      replay: In place of a new one of 200 snapshots (without a `model_dir` only). What it holds is
        kept and drawn from, so it has to be of the same network.
      experience: A replay recorded elsewhere: rollouts begin from its snapshots.
      jit_compile: Whether the meta-step is compiled with XLA as a whole.
      unrolled: Whether loops over time are written out in the graph; slow to trace.
      progress: Whether a progress bar is shown.
      on_step: Called with the meta-steps done and the metrics, after each.
      on_not_finite: Called after a meta-step that is not finite, with a function that repeats it
        (for `mlhf.debugging.name_not_finite`).

    Returns:
      The trained optimizer and the metrics.

    Raises:
      ValueError: If an argument makes no sense, or nothing is learned (`x_use`, `y_use` and
        `d_use` all without an LSTM); if `replay` or `experience` come with several tasks.
      CheckpointError: If `model_dir` holds a checkpoint of another network, rule or seed.
      OSError: If `model_dir` can't be written.
    """
    check_callbacks(on_step=on_step, on_not_finite=on_not_finite)
    run = _Run(
        tasks_of(task),
        optimizer,
        steps=check_count("steps", steps),
        roll_back=check_count("roll_back", roll_back),
        meta_lr=meta_lr if callable(meta_lr) else check_number("meta_lr", meta_lr, at_least=0),
        keep_prob=check_number("keep_prob", keep_prob, at_least=0, at_most=1),
        seed=check_count("seed", seed, 0),
        model_dir=model_dir,
        often=(save_steps, save_minutes),
        replay=replay,
        experience=experience,
        jit_compile=jit_compile,
        unrolled=unrolled,
    )
    try:
        return run.go(progress, on_step, on_not_finite)
    finally:
        run.close()


class _Run:
    """The edges of meta-training: variables, files, clocks and random decisions."""

    def __init__(
        self,
        tasks,
        optimizer,
        *,
        steps,
        roll_back,
        meta_lr,
        keep_prob,
        seed,
        model_dir,
        often,
        replay,
        experience,
        jit_compile,
        unrolled,
    ):
        self.began = time.perf_counter()
        check_learnable(tasks, optimizer)
        for name, given in (("replay", replay), ("experience", experience)):
            if given is not None and not isinstance(given, PrioritizedReplay):
                raise TypeError(f"Expected {name}= as a PrioritizedReplay, got {kind(given)}.")
        if replay is not None and model_dir is not None:
            raise ValueError(
                "Expected replay= or model_dir=, which keeps one of its own; got both."
            )
        if len(tasks) > 1 and (replay is not None or experience is not None):
            raise ValueError(
                "Expected replay= and experience= with one task only: each of several has a "
                "replay of its own."
            )
        self.optimizer = optimizer
        self.steps, self.length, self.keep_prob = steps, roll_back, keep_prob
        self.meta_lr = meta_lr if callable(meta_lr) else lambda _: meta_lr
        self.seed, self.often = seed, often

        self.generator = np.random.default_rng(seed)
        draw_missing_weights(tasks, optimizer, seed)
        self.courses = [Course(task, optimizer, seed, self.generator, experience) for task in tasks]
        self.dtype = common_dtype([course.layout for course in self.courses])
        self.kinds = sorted({kind for course in self.courses for kind in course.layout.kinds})
        self.weights = optimizer.weights_of(self.kinds, self.dtype)
        self.moments = adam.init(self.weights)
        self.done, self.skipped, self.skipped_in_a_row = 0, 0, 0

        self.log = RunLog(None)
        self._jit_compile, self._unrolled = jit_compile, unrolled
        self._open: list[PrioritizedReplay] = []
        # The replays' states of the last checkpoint, if there is one.
        self._kept_replays: list[list[dict[str, Any]]] = []
        self.checkpoints = Checkpoints(model_dir, alone=True) if model_dir is not None else None
        try:
            saved = None if self.checkpoints is None else self.checkpoints.read()
            if self.checkpoints is not None and saved is not None:
                check_signature(self.checkpoints.folder, *saved, self._signature())
            for number, course in enumerate(self.courses):
                # An empty replay is false.
                course.replay = self._open_replay(number) if replay is None else replay
            if self.checkpoints is not None and saved is not None:
                with restoring(self.checkpoints.folder, saved[0]):
                    self._restore(*saved)
            else:
                # What a run that was killed before its first checkpoint has left.
                for opened in self._open:
                    opened.clear()
                for course in self.courses:
                    course.begin()
            self.log = RunLog(model_dir, self.done)
        except BaseException:
            self.close()
            raise

    @property
    def diverged(self) -> bool:
        return self.skipped_in_a_row >= LARGEST_SKIPS_IN_A_ROW

    def _open_replay(self, number: int) -> PrioritizedReplay:
        name = f"replay-{number}" if number else "replay"
        folder = None if self.checkpoints is None else self.checkpoints.folder / name
        seed = self.seed + 1000 * number
        try:
            replay = PrioritizedReplay(REPLAY_CAPACITY, folder, beta_steps=self.steps, seed=seed)
        except RuntimeError as error:
            raise CheckpointError(f"Another run uses {folder} ({error}).") from error
        self._open.append(replay)
        return replay

    def close(self) -> None:
        self.log.close()
        if self.checkpoints is not None:
            for replay in self._open:
                replay.close()
            self.checkpoints.close()

    def go(self, progress, on_step, on_not_finite) -> MetaTraining:
        first = math.nan
        bar = ProgressBar(
            total=self.steps,
            initial=self.done,
            disable=not progress,
            unit="meta-step",
            desc="meta-training",
        )
        saving = Saving(*self.often, done=self.done, signals=self.checkpoints is not None)
        # Also when it is interrupted: what was learned is the caller's.
        with contextlib.ExitStack() as stack:
            stack.enter_context(bar)
            stack.callback(self._hand_over)
            stack.enter_context(saving)
            while self.done < self.steps and not self.diverged and not saving.stopping:
                turn, number = divmod(self.done, len(self.courses))
                course = self.courses[number]
                asked = len(range(number, self.steps, len(self.courses)))
                batch = course.next_batch(turn, self.length, asked)
                started = time.perf_counter()
                metrics = self._advance(course, batch, on_not_finite)
                if len(self.courses) > 1:
                    metrics["task"] = number
                metrics["seconds"] = time.perf_counter() - started
                if math.isnan(first):
                    first = time.perf_counter() - self.began
                self.log.write(self.done, metrics)
                if on_step is not None:
                    on_step(self.done, metrics)
                bar.step(
                    loss=f"{metrics['loss']:.3f}",
                    meta=f"{metrics['meta_loss']:.3f}",
                    h=f"{metrics['hession_loss']:.3f}",
                    skipped=self.skipped,
                )
                saving.after(self.done, self._save, self.done == self.steps or self.diverged)
            saving.finish(self.done, self._save)
        self._publish()
        history = self.log.lines
        return MetaTraining(self.optimizer, history, self.skipped, first, self.diverged, self.done)

    def _advance(self, course: Course, batch, on_not_finite) -> dict[str, Any]:
        """One meta-step, and the decision where the task's next one begins."""
        compiled = course.compile(
            lambda *arguments: self._meta_step(course, *arguments), batch, self._jit_compile
        )
        dtype = self.dtype
        arguments = (
            self.weights,
            self.moments,
            course.carry,
            batch,
            tf.constant([self.seed, self.done * self.length], tf.int32),
            self.optimizer._number("learning_rate", dtype),
            tf.constant(self.meta_lr(self.done), dtype),
        )
        result = compiled(*arguments)
        metrics = {name: float(value) for name, value in result.metrics.items()}
        self.done += 1
        if bool(result.finite):
            self.weights, self.moments = result.weights, result.adam
            self.skipped_in_a_row = 0
            course.went_on(result.carry, metrics["meta_loss"])
            if self.generator.random() >= self.keep_prob:
                course.keep_if_best(metrics["loss"], metrics["weights_norm"])
                course.rate_begun()
                course.begin_again(self.done)
        else:
            if on_not_finite is not None:
                on_not_finite(lambda: tf.function(course.function, autograph=False)(*arguments))
            self.skipped += 1
            self.skipped_in_a_row += 1
            course.begin_again(self.done)
        return {**metrics, "skipped": self.skipped, "snapshots": len(course.replay)}

    def _meta_step(self, course: Course, layout, static, *arguments) -> MetaStep:
        rows = None
        if layout.kinds != self.kinds:
            rows = tuple(self.kinds.index(kind) for kind in layout.kinds)
        fixed = (self.optimizer, layout, static, self.length, self._unrolled)
        return meta_step(*fixed, *arguments, rows_of_kinds=rows)

    def _hand_over(self) -> None:
        self.optimizer.set_weights(self.kinds, self.weights)

    def _publish(self) -> None:
        self._hand_over()
        if self.checkpoints is not None:
            self.optimizer.save(self.checkpoints.folder / weights_file.FILE_IN_FOLDER)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        self.log.flush()
        replays = [course.replay.state() for course in self.courses]
        states = [course.state() for course in self.courses]
        first, *others = [
            {**state, "replay": replay} for state, replay in zip(states, replays, strict=True)
        ]
        first["decisions"] = {
            **first["decisions"],
            "generator": _generator_state(self.generator),
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }
        self.checkpoints.write(
            self.done,
            {
                "signature": self._signature(),
                "weights": {role: w._asdict() for role, w in self.weights.items()},
                "adam": {
                    "step": self.moments.step,
                    "first": {role: w._asdict() for role, w in self.moments.first.items()},
                    "second": {role: w._asdict() for role, w in self.moments.second.items()},
                },
                **first,
                **{f"course-{number + 1}": other for number, other in enumerate(others)},
            },
        )
        # The checkpoint before this one is kept too, and with it what its replays need.
        for number, (course, replay) in enumerate(zip(self.courses, replays, strict=True)):
            course.replay.commit(replay, *(kept[number] for kept in self._kept_replays))
        self._kept_replays = [replays]
        self._publish()

    def _restore(self, step, saved) -> None:
        def load(name, like, values):
            found = {role: LSTMWeights(**values[role]) for role in self.weights}
            return load_like(like, found, name)

        self.done = step
        kept = saved["adam"]
        self.weights = load("weights", self.weights, saved["weights"])
        self.moments = adam.AdamState(
            load_like(self.moments.step, kept["step"], "Adam's step"),
            load("Adam's first moments", self.moments.first, kept["first"]),
            load("Adam's second moments", self.moments.second, kept["second"]),
        )
        decisions = saved["decisions"]
        _set_generator_state(self.generator, decisions["generator"])
        self.skipped = int(decisions["skipped"])
        self.skipped_in_a_row = int(decisions.get("skipped_in_a_row", 0))
        own = [saved[f"course-{n}"] if n else saved for n in range(len(self.courses))]
        for course, content in zip(self.courses, own, strict=True):
            course.restore(content)
        self._kept_replays = [[content["replay"] for content in own]]

    def _signature(self) -> dict[str, Any]:
        """What a checkpoint has to share with the run that continues it."""
        return {
            "task": "; ".join(course.task.name for course in self.courses),
            "method": BACKPROPAGATION,
            "rule": self.optimizer.rule.signature,
            "learning_rate": float(self.optimizer.learning_rate),
            "damping": float(self.optimizer.damping),
            "roll_back": self.length,
            "keep_prob": self.keep_prob,
            "meta_lr": float(self.meta_lr(0)),
            "seed": self.seed,
            "parameters": "; ".join(str(course.shapes()) for course in self.courses),
            "kinds": str(self.kinds),
            "dtype": self.dtype.name,
        }


def _generator_state(generator: np.random.Generator) -> str:
    return json.dumps(generator.bit_generator.state)


def _set_generator_state(generator: np.random.Generator, state: str) -> None:
    generator.bit_generator.state = json.loads(state)
