"""The particles of evolution: pairs of trainings with opposite perturbations of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_optimizer.portable_state import from_portable, to_portable
from mlhf.meta_training.rollout import Carry
from mlhf.meta_training.scan import scan
from mlhf.runs.checkpoints import load_like
from mlhf.task import Task

# A loss counts as at most this multiple of its training's first: diverging is no worse than that.
LARGEST_LOSS = 2.0
SMALLEST_LOSS = 1e-8


class AntitheticPair:
    """Two particles: trainings on the same batches, with opposite perturbations.

    Attributes:
      carries: The points that both have come to.
      accumulated_perturbation: The sum of the perturbations since the trainings began, a vector
        like θ; for the second training it is the negative.
      age: The number of steps since the trainings began.
      horizon: The age at which they begin again.
      first_loss: The loss at age 0.
    """

    def __init__(
        self, carries: list[Carry], accumulated_perturbation: np.ndarray, horizon: int
    ) -> None:
        """Sets a pair up at age 0."""
        self.carries, self.horizon = carries, horizon
        self.accumulated_perturbation = accumulated_perturbation
        self.age = 0
        self.first_loss = math.nan


class Particles:
    """A task and the pairs of particles that train on it.

    Attributes:
      task: The task that is trained.
      layout: The layout of its parameters.
      kinds: The kinds of the weights' rows, in their order; a task may have fewer.
      pairs: The pairs.
      optimizer: The optimizer whose rule is learned.
    """

    def __init__(self, task: Task, optimizer: MetaHessianFree, seed: int) -> None:
        """Sets the task up, without pairs.

        Args:
          task: The task that is trained.
          optimizer: The optimizer whose rule is learned.
          seed: The seed of initial parameters, of which only the shapes matter.
        """
        self.task = task
        parameters = task.initialize(seed)
        task.check_rollouts()
        self.layout: Layout = optimizer.layout(parameters, task.variable_kinds())
        self.kinds = self.layout.kinds
        self.pairs: list[AntitheticPair] = []
        self.optimizer = optimizer
        self._initial_state = optimizer.init(parameters, task.variable_kinds())
        self._model_state = task.initial_model_state()
        self._run: Callable[..., Any] | None = None
        self._stream: Iterator[Any] | None = None

    def begin(self, seed: int) -> list[Carry]:
        """Returns where both trainings of a pair begin: at the initial weights of a seed."""
        weights = self.layout.flatten(self.task.initialize(seed))
        return [Carry(weights, self._model_state, self._initial_state)] * 2

    def batches(self, turn: int, length: int) -> Any:
        """Returns the batches of a turn, [T, ...].

        Raises:
          ValueError: If the task's batches end.
        """
        if self._stream is None:
            self._stream = iter(self.task.rollout_batches(turn * length, length))
        try:
            return next(self._stream)
        except StopIteration:
            raise ValueError(
                f"The task's batches ended after {turn} updates of {length} batches; let "
                "batches(k) repeat its data."
            ) from None

    def advance(
        self, carry: Carry, weights: Any, rate: tf.Tensor, batches: Any
    ) -> tuple[Carry, np.ndarray]:
        """Trains one particle, with a step on each batch.

        Args:
          carry: The point where it stands.
          weights: The LSTMs' weights by role, with rows for `kinds`.
          rate: The learning rate.
          batches: The batches, as `batches` returns them.

        Returns:
          The point that it comes to, and the losses before each step, [T].
        """
        if self._run is None:
            self._run = tf.function(self._steps, autograph=False)
        carry, losses = self._run(weights, rate, carry, batches)
        return carry, losses.numpy().astype(float)

    def bounded(self, pair: AntitheticPair, losses: np.ndarray) -> np.ndarray:
        """Returns the losses of a particle of a pair as they count, [T].

        Args:
          pair: The pair, which keeps the first loss at age 0.
          losses: The losses before each step.

        Raises:
          ValueError: If a training begins with a loss that is not above 0.
        """
        if math.isnan(pair.first_loss):
            pair.first_loss = float(losses[0])
            if not (math.isfinite(pair.first_loss) and pair.first_loss > 0):
                raise ValueError(
                    f"Expected losses above 0, whose logarithms are compared, got "
                    f"{pair.first_loss} at the start of a training of the task {self.task.name!r}: "
                    "meta-train on it by backpropagation (meta_train), or with another loss."
                )
        largest = LARGEST_LOSS * pair.first_loss
        return np.clip(np.where(np.isfinite(losses), losses, largest), SMALLEST_LOSS, largest)

    def _steps(
        self, weights: dict[str, LSTMWeights], rate: tf.Tensor, carry: Carry, batches: Any
    ) -> tuple[Carry, tf.Tensor]:
        """Returns the carry and the losses of a rollout, for `tf.function`."""
        if self.layout.kinds != self.kinds:
            rows = [self.kinds.index(kind) for kind in self.layout.kinds]
            weights = tf.nest.map_structure(lambda w: tf.gather(w, rows), weights)
        first = tf.nest.map_structure(lambda value: value[0], batches)
        objective = self.task.objective(*first)

        def body(t: tf.Tensor, carry: Carry) -> tuple[Carry, tf.Tensor]:
            inputs, targets = tf.nest.map_structure(lambda value: value[t], batches)
            moved, state, model_state, metrics = self.optimizer.step_in(
                self.layout,
                objective.on(inputs, targets, carry.model_state),
                self.layout.unflatten(carry.weights),
                carry.state,
                weights,
                rate,
            )
            return Carry(self.layout.flatten(moved), model_state, state), metrics["loss"]

        length = tf.nest.flatten(batches)[0].shape[0]
        carry, losses = scan(body, carry, length, tf.TensorSpec([], self.layout.dtype))
        return carry, losses.stacked()

    def state(self, pair: AntitheticPair) -> dict[str, Any]:
        """Returns what a checkpoint keeps of a pair."""
        return {
            "drift": pair.accumulated_perturbation,
            "age": pair.age,
            "horizon": pair.horizon,
            "first_loss": pair.first_loss if math.isfinite(pair.first_loss) else -1.0,
            "carries": [self.saved(carry) for carry in pair.carries],
        }

    def saved(self, carry: Carry) -> dict[str, Any]:
        """Returns a carry for a checkpoint or another machine.

        Values that are not finite are set apart, as bytes.
        """
        whole = {
            "weights": carry.weights,
            "model_state": carry.model_state,
            **to_portable(carry.state, self.layout),
        }
        lost = not np.all(np.isfinite(carry.weights))
        return {
            "lost": lost,
            **tf.nest.map_structure(_finite, whole),
            "not_finite": [_not_finite(leaf) for leaf in tf.nest.flatten(whole)],
        }

    def restore(self, pair: AntitheticPair, saved: dict[str, Any]) -> None:
        """Goes on from what `state` returned.

        Raises:
          ValueError: If it does not fit the pair.
        """
        perturbation = tf.constant(pair.accumulated_perturbation)
        pair.accumulated_perturbation = load_like(perturbation, saved["drift"], "drift").numpy()
        pair.age, pair.horizon = int(saved["age"]), int(saved["horizon"])
        pair.first_loss = float(saved["first_loss"])
        if pair.first_loss < 0:
            pair.first_loss = math.nan
        first, second = saved["carries"]
        pair.carries = [self.carry(first), self.carry(second)]

    def carry(self, saved: dict[str, Any]) -> Carry:
        """Returns the carry that `saved` described."""
        whole = {name: value for name, value in saved.items() if name not in ("lost", "not_finite")}
        like = {
            "weights": tf.zeros([self.layout.size], self.layout.dtype),
            "model_state": self._model_state,
            **to_portable(self._initial_state, self.layout),
        }
        whole = tf.nest.map_structure(np.asarray, load_like(like, whole, "a training"))
        if "not_finite" in saved:
            leaves = tf.nest.flatten(whole)
            filled = [_fill(*pair) for pair in zip(leaves, saved["not_finite"], strict=True)]
            whole = tf.nest.pack_sequence_as(whole, filled)
        elif saved["lost"]:
            # Older checkpoints do not tell which of them were not finite.
            whole["weights"] = np.full_like(whole["weights"], math.nan)
        return Carry(
            tf.constant(whole["weights"], self.layout.dtype),
            tf.nest.map_structure(
                lambda like, value: tf.constant(value, like.dtype),
                self._model_state,
                whole["model_state"],
            ),
            from_portable(whole, self._initial_state, self.layout),
        )


def _not_finite(value: Any) -> dict[str, np.ndarray]:
    """Returns the places where a value is not finite, and the bytes of the numbers there."""
    value = np.asarray(value)
    floating = np.issubdtype(value.dtype, np.floating)
    flat = value.reshape(-1)
    places = np.flatnonzero(~np.isfinite(flat)) if floating else np.zeros(0, np.int64)
    return {"places": places, "bytes": np.frombuffer(flat[places].tobytes(), np.uint8)}


def _fill(value: Any, saved: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the value that `_finite` and `_not_finite` took apart."""
    filled = np.array(value)
    filled.reshape(-1)[saved["places"]] = np.frombuffer(saved["bytes"].tobytes(), filled.dtype)
    return filled


def _finite(value: Any) -> Any:
    """Returns a value with zeros where it is not finite: a checkpoint holds finite numbers only."""
    value = tf.convert_to_tensor(value)
    if not value.dtype.is_floating:
        return value
    return tf.where(tf.math.is_finite(value), value, tf.zeros_like(value))
