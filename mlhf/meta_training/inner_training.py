"""One task's training while an optimizer is meta-trained: its point, and where it begins again."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from mlhf.layout import Layout
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_optimizer.portable_state import from_portable, to_portable
from mlhf.meta_training.replay_priorities import is_worth_keeping, priority
from mlhf.meta_training.rollout import Carry
from mlhf.runs.checkpoints import CheckpointError, finite_numbers, load_like
from mlhf.task import Task
from replay import DamagedSnapshotError, PrioritizedReplay


class InnerTraining:
    """A task, the point that its rollouts have reached, and the replay that they begin again from.

    Attributes:
      task: The task that is trained.
      layout: The layout of its parameters.
      carry: The point where the next rollout starts.
      replay: The snapshots to begin again from; set before `begin` or `restore`.
      function: The meta-step on this task, not compiled; None before the first.
      step: The compiled meta-step; None before the first.
    """

    def __init__(
        self,
        task: Task,
        optimizer: MetaHessianFree,
        seed: int,
        generator: np.random.Generator,
        experience: PrioritizedReplay | None,
    ) -> None:
        """Sets the training up.

        Args:
          task: The task that is trained.
          optimizer: The optimizer, which knows the kinds of the task's variables.
          seed: The seed of the initial parameters.
          generator: The random generator that all inner trainings share.
          experience: A replay recorded elsewhere: rollouts begin from its snapshots.
        """
        self.task = task
        self.parameters = task.initialize(seed)
        task.check_rollouts()
        self.initial_state = optimizer.init(self.parameters, task.variable_kinds())
        self.layout: Layout = optimizer.layout(self.parameters)
        self.replay: PrioritizedReplay
        self.function: Callable[..., Any] | None = None
        self.step: Callable[..., Any] | None = None
        self._generator, self._experience = generator, experience
        self._batches: Iterator[Any] | None = None
        self._best_loss, self._best_norm = math.inf, math.inf
        self._begun_from: int | None = None
        self._meta_losses: list[float] = []
        # Damaged snapshots of the experience, which its own files do not tell.
        self._left_out: list[int] = []

    def begin(self) -> None:
        """Starts at the initial parameters."""
        model_state = self.task.initial_model_state()
        self.carry = Carry(self.layout.flatten(self.parameters), model_state, self.initial_state)
        self._best_norm = float(tf.norm(self.carry.weights))
        self._begun_from = self.replay.add(self._snapshot())
        if self._experience is not None:
            self.begin_again(0)

    def next_batch(self, done: int, length: int, asked: int) -> Any:
        """Returns the batches of the next rollout.

        Args:
          done: The number of rollouts of this training that are done.
          length: T.
          asked: The total number of its rollouts.

        Raises:
          ValueError: If the task's batches end.
        """
        if self._batches is None:
            self._batches = iter(self.task.rollout_batches(done * length, length))
        try:
            return next(self._batches)
        except StopIteration:
            raise ValueError(
                f"The task's batches ended after {done} meta-steps of {length} batches; {asked} "
                "were asked for. Let batches(k) repeat its data."
            ) from None

    def compile(
        self, meta_step: Callable[..., Any], batch: Any, jit_compile: bool
    ) -> Callable[..., Any]:
        """Returns the compiled meta-step, made at the first call.

        Args:
          meta_step: A function of a layout, an objective's static part, and other arguments.
          batch: The batches of a rollout.
          jit_compile: Whether to compile it with XLA.
        """
        if self.step is None:
            inputs, targets = tf.nest.map_structure(lambda value: value[0], batch)
            static = self.task.objective(inputs, targets).static
            self.function = functools.partial(meta_step, self.layout, static)
            self.step = tf.function(self.function, jit_compile=jit_compile, autograph=False)
        return self.step

    def went_on(self, carry: Carry, meta_loss: float) -> None:
        """Moves to the point after a meta-step that was finite."""
        self.carry = carry
        self._meta_losses.append(meta_loss)

    def keep_if_best(self, loss: float, norm: float) -> None:
        """Stores the current point if nothing better was stored."""
        if is_worth_keeping(loss, norm, self._best_loss, self._best_norm):
            self._best_loss, self._best_norm = loss, norm
            self.replay.add(self._snapshot())

    def rate_begun(self) -> None:
        """Updates the priority of the snapshot from which training last began again."""
        if self._begun_from is not None and self._meta_losses:
            self.replay.update([self._begun_from], [priority(self._meta_losses)])

    def begin_again(self, done: int) -> None:
        """Goes back to a snapshot.

        Args:
          done: The number of meta-steps done, on which the replay's corrections depend.
        """
        self._meta_losses = []
        self._begun_from, snapshot = self._draw(done)
        self._check_like(snapshot)
        parameters, model_state = (
            tf.nest.map_structure(tf.constant, snapshot[part])
            for part in ("parameters", "model_state")
        )
        self.carry = Carry(self.layout.flatten(parameters), model_state, self.initial_state)

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps, except the replay: `carry` and `decisions`."""
        return {
            "carry": {
                "parameters": self.layout.unflatten(self.carry.weights),
                "model_state": self.carry.model_state,
                **to_portable(self.carry.state, self.layout),
            },
            "decisions": {
                "best_loss": self._best_loss.hex(),
                "best_norm": self._best_norm.hex(),
                "begun_from": -1 if self._begun_from is None else self._begun_from,
                "meta_losses": np.array(self._meta_losses),
                "left_out": np.array(self._left_out, np.int64),
            },
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from what `state` returned and, as `replay`, the replay's state."""
        carry, decisions = saved["carry"], saved["decisions"]
        parameters = load_like(self.parameters, carry["parameters"], "parameters")
        model_state = load_like(
            self.task.initial_model_state(), carry["model_state"], "model_state"
        )
        self.carry = Carry(
            self.layout.flatten(parameters),
            model_state,
            from_portable(carry, self.initial_state, self.layout, finite=True),
        )
        self._best_loss = float.fromhex(decisions["best_loss"])
        self._best_norm = float.fromhex(decisions["best_norm"])
        self._begun_from = None if decisions["begun_from"] < 0 else int(decisions["begun_from"])
        self._meta_losses = finite_numbers(decisions["meta_losses"], "meta_losses")
        for number in decisions.get("left_out", ()):
            self._leave_out(int(number))
        self.replay.restore(saved["replay"])

    def shapes(self) -> list[tuple[int, ...]]:
        """Returns the shapes of the parameters."""
        return _shapes(self.layout.unflatten(tf.zeros([self.layout.size], self.layout.dtype)))

    def _draw(self, done: int) -> tuple[int | None, Any]:
        """Draws a snapshot to begin from, and its number if it has a priority to update."""
        while True:
            try:
                if self._experience is None:
                    sample = self.replay.sample(step=done)
                    return int(sample.ids[0]), sample.snapshots[0]
                if not len(self._experience):
                    raise CheckpointError(
                        "Expected an experience with snapshots, got an empty one: record it with "
                        "--record_experience."
                    )
                # Drawn with this run's generator, which a checkpoint keeps.
                ids, chances = self._experience.ids, self._experience.probabilities
                chosen = int(self._generator.choice(ids, p=chances))
                return None, self._experience.snapshot(chosen)
            except DamagedSnapshotError as error:
                # The rest of the replay is whole: go on without the damaged snapshot.
                tqdm.tqdm.write(f"Left out: {error}")
                if self._experience is None:
                    self.replay.drop(error.id)
                else:
                    self._leave_out(error.id)

    def _leave_out(self, number: int) -> None:
        """Drops a damaged snapshot of the experience; what is drawn later depends on that."""
        self._left_out.append(number)
        if self._experience is not None:
            self._experience.drop(number)

    def _check_like(self, snapshot: Any) -> None:
        if not isinstance(snapshot, dict) or not {"parameters", "model_state"} <= set(snapshot):
            raise CheckpointError(
                'Expected snapshots with "parameters" and "model_state", as --record_experience '
                f"makes them, got {type(snapshot).__name__} {str(snapshot)[:60]}."
            )
        likes = {"parameters": self.parameters, "model_state": self.task.initial_model_state()}
        for part, like in likes.items():
            expected, actual = _described(like), _described(snapshot[part])
            if actual != expected:
                raise CheckpointError(
                    f"Expected snapshots with the {part} {expected}, got {actual}; they have to "
                    "come from the same network."
                )

    def _snapshot(self) -> dict[str, Any]:
        return tf.nest.map_structure(
            np.asarray,
            {
                "parameters": self.layout.unflatten(self.carry.weights),
                "model_state": self.carry.model_state,
            },
        )


def _shapes(structure: Any) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in tf.nest.flatten(structure)]


def _described(structure: Any) -> list[str]:
    """Returns dtypes and shapes, not names: Keras numbers layers anew in every process."""
    return [
        f"{tf.as_dtype(leaf.dtype).name}{list(leaf.shape)}" for leaf in tf.nest.flatten(structure)
    ]
