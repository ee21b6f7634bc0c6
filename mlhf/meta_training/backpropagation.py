"""Meta-training: a run of meta-steps that begin at replayed snapshots."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlhf.checks.arguments import check_count, check_number
from mlhf.checks.structures import kind
from mlhf.layout import Layout
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_training import adam
from mlhf.meta_training.arguments import check_callbacks, check_learnable, tasks_of
from mlhf.meta_training.inner_training import InnerTraining
from mlhf.meta_training.meta_run import (
    BACKPROPAGATION,
    MetaRun,
    load_weights,
    weights_as_saved,
)
from mlhf.meta_training.meta_step import MetaStep, meta_step
from mlhf.meta_training.steps import MetaTraining
from mlhf.runs.checkpoints import CHECKPOINTS_KEPT, CheckpointError, load_like
from mlhf.task import Task
from replay import PrioritizedReplay

REPLAY_CAPACITY = 200


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
) -> MetaTraining[MetaHessianFree]:
    """Meta-trains an optimizer's LSTMs on a task (Chen, Lu and Fokoue 2018, arXiv 1805.08462).

    A meta-step rolls the task's training forward by `roll_back` steps and moves the LSTMs' weights
    by Adam along the gradient of both meta losses. Between meta-steps training goes on with
    probability `keep_prob`; otherwise it begins again at a snapshot that the prioritized replay
    draws. It also begins again after a meta-step that is not finite, which leaves the weights as
    they are and is counted in `skipped`; after 20 of them in a row meta-training ends.

    Several tasks take turns, one for each meta-step. They share the LSTMs' weights and Adam; each
    has its own training, replay and compiled meta-step. A kind of variable that a task does not
    have gets no gradient from it; weights are drawn for kinds for which the optimizer has none.

    With a `model_dir`, a run that was killed continues from its last checkpoint and ends with the
    numbers of an uninterrupted one, bit for bit on one machine. Ctrl-C and SIGTERM end it after the
    current meta-step, with a checkpoint.

    Args:
      task: The task that is trained; or several, of one dtype.
      optimizer: The optimizer, whose weights are trained in place; rollouts use its
        `learning_rate`.
      steps: The total number of meta-steps, those of a continued run included.
      roll_back: T, the steps of a rollout.
      meta_lr: Adam's step size, or a function of the number of meta-steps done.
      keep_prob: The probability that training goes on between meta-steps.
      seed: The seed of the initial parameters, the noise and the replay.
      model_dir: The folder for checkpoints, metrics, the replay and the trained optimizer; None
        keeps all in memory.
      save_steps: The number of meta-steps between checkpoints; there is one at the end, too.
      save_minutes: The minutes between checkpoints, if they are over first; 0 for never.
      replay: A replay in place of a new one of 200 snapshots (without a `model_dir` only). Its
        snapshots are kept and drawn from, so they have to come from the same network.
      experience: A replay recorded elsewhere: rollouts begin from its snapshots.
      jit_compile: Whether the meta-step is compiled with XLA as a whole.
      unrolled: Whether loops over time are written out in the graph; slow to trace.
      progress: Whether a progress bar is shown.
      on_step: A function that is called after each meta-step, with their number and the metrics.
      on_not_finite: A function that is called after a meta-step that is not finite, with a function
        that repeats it (for `mlhf.runs.debugging.name_not_finite`).

    Returns:
      The trained optimizer and the metrics.

    Raises:
      ValueError: If an argument makes no sense, or nothing is learned (`x_use`, `y_use` and
        `d_use` all without an LSTM), or `replay` or `experience` comes with several tasks.
      CheckpointError: If `model_dir` has a checkpoint of another network, rule or seed.
      OSError: If `model_dir` can't be written.
    """
    check_callbacks(on_step=on_step, on_not_finite=on_not_finite)
    run = _Backpropagation(
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
        on_not_finite=on_not_finite,
    )
    try:
        return run.go(progress, on_step)
    finally:
        run.run.close()


class _Backpropagation(MetaRun[InnerTraining]):
    """Meta-steps, and the decisions where the next ones begin."""

    method, description, unit = BACKPROPAGATION, "meta-training", "meta-step"

    def __init__(
        self,
        tasks: Sequence[Task],
        optimizer: MetaHessianFree,
        *,
        seed: int,
        keep_prob: float,
        replay: PrioritizedReplay | None,
        experience: PrioritizedReplay | None,
        jit_compile: bool,
        unrolled: bool,
        on_not_finite: Callable[[Callable[[], Any]], None] | None,
        **common: Any,
    ) -> None:
        check_learnable(tasks, optimizer)
        _check_replays(replay, experience, tasks, common["model_dir"])
        super().__init__(
            tasks,
            optimizer,
            lambda task, generator: InnerTraining(task, optimizer, seed, generator, experience),
            seed=seed,
            first_seed=seed,
            **common,
        )
        self.moments = adam.init(self.weights)
        self._keep_prob, self._on_not_finite = keep_prob, on_not_finite
        self._jit_compile, self._unrolled = jit_compile, unrolled
        # For the checkpoints before the last one, the replays' states by task.
        self._states_before: deque[list[dict[str, Any]]] = deque(maxlen=CHECKPOINTS_KEPT - 1)
        self._states: list[dict[str, Any]] = []
        with self.run.opening():
            saved = self.read()
            for number, training in enumerate(self.trainings):
                # An empty replay is false.
                training.replay = self._open_replay(number) if replay is None else replay
            if saved is not None:
                self.take_over(saved)
                return
            for training in self.trainings:
                if replay is None:
                    # A run that was killed before its first checkpoint may have left snapshots.
                    training.replay.clear()
                training.begin()

    def _open_replay(self, number: int) -> PrioritizedReplay:
        name = f"replay-{number}" if number else "replay"
        folder = None if self.run.folder is None else self.run.folder / name
        seed = self.seed + 1000 * number
        try:
            replay = PrioritizedReplay(REPLAY_CAPACITY, folder, beta_steps=self.steps, seed=seed)
        except RuntimeError as error:
            raise CheckpointError(f"Another run uses {folder} ({error}).") from error
        if folder is not None:
            self.run.at_close(replay.close)
        return replay

    def next_batches(self, number: int, turn: int) -> Any:
        asked = len(range(number, self.steps, len(self.trainings)))
        return self.trainings[number].next_batch(turn, self.length, asked)

    def step(self, number: int, batches: Any) -> dict[str, Any]:
        """Takes one meta-step, and decides where the task's next one begins."""
        training, run = self.trainings[number], self.run
        compiled = training.compile(
            lambda *arguments: self._meta_step(training, *arguments), batches, self._jit_compile
        )
        dtype = self.dtype
        arguments = (
            self.weights,
            self.moments,
            training.carry,
            batches,
            tf.constant([self.seed, run.done * self.length], tf.int32),
            self.optimizer._number("learning_rate", dtype),
            tf.constant(self.meta_lr(run.done), dtype),
        )
        result = compiled(*arguments)
        metrics = {name: float(value) for name, value in result.metrics.items()}
        finite = bool(result.finite)
        run.count_step(finite)
        if finite:
            self.weights, self.moments = result.weights, result.adam
            training.went_on(result.carry, metrics["meta_loss"])
            if self.generator.random() >= self._keep_prob:
                training.keep_if_best(metrics["loss"], metrics["weights_norm"])
                training.rate_begun()
                training.begin_again(run.done)
        else:
            if self._on_not_finite is not None:
                self._on_not_finite(
                    lambda: tf.function(training.function, autograph=False)(*arguments)
                )
            training.begin_again(run.done)
        return {**metrics, "skipped": run.skipped, "snapshots": len(training.replay)}

    def _meta_step(
        self, training: InnerTraining, layout: Layout, static: tuple[Any, ...], *arguments: Any
    ) -> MetaStep:
        rows = None
        if layout.kinds != self.kinds:
            rows = tuple(self.kinds.index(kind) for kind in layout.kinds)
        fixed = (self.optimizer, layout, static, self._unrolled)
        return meta_step(*fixed, *arguments, rows_of_kinds=rows)

    def shown(self, metrics: dict[str, Any]) -> dict[str, Any]:
        return {
            "loss": f"{metrics['loss']:.3f}",
            "meta": f"{metrics['meta_loss']:.3f}",
            "h": f"{metrics['hession_loss']:.3f}",
            "skipped": self.run.skipped,
        }

    def signature(self) -> dict[str, Any]:
        return {
            **super().signature(),
            "learning_rate": float(self.optimizer.learning_rate),
            "keep_prob": self._keep_prob,
            "parameters": "; ".join(str(training.shapes()) for training in self.trainings),
        }

    def state(self) -> dict[str, Any]:
        self._states = [training.replay.state() for training in self.trainings]
        first, *others = [
            {**training.state(), "replay": replay}
            for training, replay in zip(self.trainings, self._states, strict=True)
        ]
        first["decisions"] = {
            **first["decisions"],
            "generator": json.dumps(self.generator.bit_generator.state),
            "skipped": self.run.skipped,
            "skipped_in_a_row": self.run.skipped_in_a_row,
        }
        return {
            "adam": {
                "step": self.moments.step,
                "first": weights_as_saved(self.moments.first),
                "second": weights_as_saved(self.moments.second),
            },
            **first,
            **{f"course-{number + 1}": other for number, other in enumerate(others)},
        }

    def saved(self) -> None:
        # Earlier checkpoints are kept too, and so are the snapshots that their replays need.
        for number, training in enumerate(self.trainings):
            before = (states[number] for states in self._states_before)
            training.replay.commit(self._states[number], *before)
        self._states_before.append(self._states)

    def restore(self, saved: dict[str, Any]) -> None:
        moments, decisions = saved["adam"], saved["decisions"]
        self.moments = adam.AdamState(
            load_like(self.moments.step, moments["step"], "Adam's step"),
            load_weights(self.moments.first, moments["first"], "Adam's first moments"),
            load_weights(self.moments.second, moments["second"], "Adam's second moments"),
        )
        self.generator.bit_generator.state = json.loads(decisions["generator"])
        self.run.skipped = int(decisions["skipped"])
        self.run.skipped_in_a_row = int(decisions.get("skipped_in_a_row", 0))
        contents = [saved[f"course-{n}"] if n else saved for n in range(len(self.trainings))]
        for training, content in zip(self.trainings, contents, strict=True):
            training.restore(content)
        self._states_before.append([content["replay"] for content in contents])


def _check_replays(replay: Any, experience: Any, tasks: Sequence[Task], model_dir: Any) -> None:
    """Raises an error for replays of another type, or that do not go with the other arguments."""
    for name, value in (("replay", replay), ("experience", experience)):
        if value is not None and not isinstance(value, PrioritizedReplay):
            raise TypeError(f"Expected {name}= as a PrioritizedReplay, got {kind(value)}.")
    if replay is not None and model_dir is not None:
        raise ValueError("Expected replay= or model_dir=, which keeps one of its own; got both.")
    if len(tasks) > 1 and (replay is not None or experience is not None):
        raise ValueError(
            "Expected replay= and experience= with one task only: each of several has a "
            "replay of its own."
        )
