"""The loops over the steps of training, each traced once and compiled once for a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.hypergrad import guards
from mlhf.hypergrad.dynamics.base import State
from mlhf.hypergrad.guards import is_bad
from mlhf.hypergrad.hyperparameters import Rows
from mlhf.hypergrad.training import Outer, Training

# The number of steps of a pass that are compared with the recorded ones.
COMPARED = 4


class Trained(NamedTuple):
    """Some steps of training."""

    state: State
    losses: tf.Tensor  # [steps], the training loss before each
    bad_step: tf.Tensor  # int32, the first one that was not finite, or -1


class BackwardPass(NamedTuple):
    """Adjoints taken back through some steps; lists by outer loss are in sorted order."""

    adjoints: list[State]
    sums: list[list[tf.Tensor]]  # by outer loss and leaf: Σ Bᵀα; meaningless for schedules
    by_step: list[list[tf.Tensor]]  # by outer loss and leaf: [steps, ...], or [steps, 0]
    norms: list[tf.Tensor]  # by outer loss: ‖α_w‖ before each step, [steps]
    moving: list[tf.Tensor]  # the same norms over the weights that the step moves, [steps]
    shares: list[tf.Tensor]  # by outer loss: norms of each step's contributions, [steps, leaves]
    drift: tf.Tensor  # the largest |recomputed - recorded| relative to 1 + |recorded|


class Loops:
    """The compiled loops of a training.

    Attributes:
      begin: Makes the first state.
      advance: Trains from s_a to s_b and keeps nothing.
      record: Trains from s_a to s_b and stacks s_a ... s_{b-1}, for storage elsewhere.
      pull: Takes adjoints of s_b to those of s_a, from stacked states.
      segment: Takes adjoints of s_b to those of s_a, from s_a alone: records, then pulls.
      window: Trains from s_a to s_b, takes the outer losses, and pulls their adjoints back to s_a.
      outer: Takes the outer losses and their adjoints at the last state.
      to_beginning: Takes adjoints of the first state to weights and hyperparameters.
    """

    def __init__(self, training: Training, keep: Sequence[bool]):
        """Makes the functions; each is traced when it is first called.

        Args:
          training: The training to run.
          keep: Whether contributions are kept by step, for each leaf of the hyperparameters;
            those to schedules always are.
        """
        self._training = training
        self._keep = [
            kept or scheduled
            for kept, scheduled in zip(keep, training.resolver.scheduled, strict=True)
        ]
        self.begin = tf.function(training.initial_state, autograph=False)
        self.advance = tf.function(self._advance, autograph=False)
        self.record = tf.function(self._record, autograph=False)
        self.pull = tf.function(self._pull, autograph=False)
        self.segment = tf.function(self._segment, autograph=False)
        self.window = tf.function(self._window, autograph=False)
        self.outer = tf.function(self._outer, autograph=False)
        self.to_beginning = tf.function(training.initial_vjp, autograph=False)

    def _outer(self, state: State, hyper: Rows, seed: tf.Tensor) -> tuple[Outer, list[State]]:
        outer = self._training.outer(state["weights"], hyper, seed)
        return outer, self._training.first_adjoints(state, outer)

    def _advance(
        self, state: State, hyper: Rows, seed: tf.Tensor, start: tf.Tensor, stop: tf.Tensor
    ) -> Trained:
        return self._train(state, hyper, seed, start, stop, keep=False)[0]

    def _record(
        self, state: State, hyper: Rows, seed: tf.Tensor, start: tf.Tensor, stop: tf.Tensor
    ) -> tuple[Trained, State]:
        trained, arrays = self._train(state, hyper, seed, start, stop, keep=True)
        return trained, {name: array.stack() for name, array in arrays.items()}

    def _train(
        self,
        state: State,
        hyper: Rows,
        seed: tf.Tensor,
        start: tf.Tensor,
        stop: tf.Tensor,
        keep: bool,
    ) -> tuple[Trained, dict[str, tf.TensorArray]]:
        training, names = self._training, sorted(state)
        length = stop - start
        arrays = {
            name: tf.TensorArray(state[name].dtype, length, element_shape=state[name].shape)
            for name in names
            if keep
        }
        losses = tf.TensorArray(training.flat.dtype, length, element_shape=[])

        def body(
            step: tf.Tensor,
            state: State,
            arrays: dict[str, tf.TensorArray],
            losses: tf.TensorArray,
            bad: tf.Tensor,
        ) -> tuple[Any, ...]:
            i = step - start
            arrays = {name: array.write(i, state[name]) for name, array in arrays.items()}
            rows = training.resolver.rows(hyper, step)
            state, loss = training.step(state, rows, step, seed)
            losses = losses.write(i, tf.cast(loss, training.flat.dtype))
            bad = tf.where((bad < 0) & is_bad(state, loss), step, bad)
            return step + 1, state, arrays, losses, bad

        _, state, arrays, losses, bad = tf.while_loop(
            lambda step, *_: step < stop,
            body,
            (start, state, arrays, losses, tf.constant(-1)),
            parallel_iterations=1,
        )
        return Trained(state, losses.stack(), bad), arrays

    def _pull(
        self,
        states: State,
        last: State,
        adjoints: list[State],
        hyper: Rows,
        seed: tf.Tensor,
        start: tf.Tensor,
    ) -> BackwardPass:
        length = tf.shape(tf.nest.flatten(states)[0])[0]

        def read(i: tf.Tensor) -> State:
            return {name: slot[i] for name, slot in states.items()}

        return self._back(read, last, adjoints, hyper, seed, start, start + length)

    def _segment(
        self,
        state: State,
        adjoints: list[State],
        hyper: Rows,
        seed: tf.Tensor,
        start: tf.Tensor,
        stop: tf.Tensor,
    ) -> BackwardPass:
        trained, arrays = self._train(state, hyper, seed, start, stop, keep=True)
        read = _reader(arrays)
        return self._back(read, trained.state, adjoints, hyper, seed, start, stop)

    def _window(
        self, state: State, hyper: Rows, seed: tf.Tensor, start: tf.Tensor, stop: tf.Tensor
    ) -> tuple[Trained, Outer, BackwardPass]:
        trained, arrays = self._train(state, hyper, seed, start, stop, keep=True)
        outer, adjoints = self._outer(trained.state, hyper, seed)
        read = _reader(arrays)
        pulled = self._back(read, trained.state, adjoints, hyper, seed, start, stop)
        return trained, outer, pulled

    def _drift(
        self, before: State, after: State, rows: Rows, step: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        again, _ = self._training.step(before, rows, step, seed)
        there, here = after["weights"], again["weights"]
        return tf.reduce_max(tf.abs(here - there) / (1 + tf.abs(there)))

    def _accumulators(
        self, hyper: Rows, losses: int, length: tf.Tensor
    ) -> tuple[list[list[tf.Tensor]], list[list[tf.TensorArray]], list[list[tf.TensorArray]]]:
        """Returns zero sums, and empty arrays for contributions by step and for three norms."""
        leaves, dtype = tf.nest.flatten(hyper), self._training.flat.dtype
        scheduled = self._training.resolver.scheduled

        def zeros(leaf: tf.Tensor, scheduled: bool) -> tf.Tensor:
            return tf.zeros([], leaf.dtype) if scheduled else tf.zeros_like(leaf)

        def array(leaf: tf.Tensor, scheduled: bool, keep: bool) -> tf.TensorArray:
            shape = (leaf.shape[1:] if scheduled else leaf.shape) if keep else [0]
            return tf.TensorArray(leaf.dtype, length, element_shape=shape)

        sums = [
            [zeros(leaf, s) for leaf, s in zip(leaves, scheduled, strict=True)]
            for _ in range(losses)
        ]
        by_step = [
            [
                array(leaf, s, keep)
                for leaf, s, keep in zip(leaves, scheduled, self._keep, strict=True)
            ]
            for _ in range(losses)
        ]
        measures = [
            [tf.TensorArray(dtype, length, element_shape=shape) for _ in range(losses)]
            for shape in ([], [], [len(leaves)])
        ]
        return sums, by_step, measures

    def _back(
        self,
        read: Callable[[tf.Tensor], State],
        last: State,
        adjoints: list[State],
        hyper: Rows,
        seed: tf.Tensor,
        start: tf.Tensor,
        stop: tf.Tensor,
    ) -> BackwardPass:
        training, dtype = self._training, self._training.flat.dtype
        scheduled = training.resolver.scheduled
        length = stop - start
        compared = tf.maximum(1, length // COMPARED)
        sums, by_step, measures = self._accumulators(hyper, len(adjoints), length)

        def body(
            step: tf.Tensor,
            after: State,
            adjoints: list[State],
            sums: list[list[tf.Tensor]],
            by_step: list[list[tf.TensorArray]],
            measures: list[list[tf.TensorArray]],
            drift: tf.Tensor,
        ) -> tuple[Any, ...]:
            i = step - start
            before = read(i)
            rows = training.resolver.rows(hyper, step)
            # A step that is not a pure function shows in any of them; comparing costs a gradient.
            drift = tf.cond(
                tf.equal(i % compared, 0),
                lambda: tf.maximum(drift, self._drift(before, after, rows, step, seed)),
                lambda: drift,
            )
            adjoints, in_rows = training.step_vjp(before, after, adjoints, rows, step, seed)
            moves = guards.moves(before, after)
            adjoints = [guards.bounded(adjoint, moves) for adjoint in adjoints]
            sums = [
                [
                    total if s else total + part
                    for total, part, s in zip(totals, parts, scheduled, strict=True)
                ]
                for totals, parts in zip(sums, in_rows, strict=True)
            ]
            by_step = [
                [
                    array.write(i, part if keep else tf.zeros([0], part.dtype))
                    for array, part, keep in zip(arrays, parts, self._keep, strict=True)
                ]
                for arrays, parts in zip(by_step, in_rows, strict=True)
            ]
            in_weights = [adjoint["weights"] for adjoint in adjoints]
            measured = [
                [tf.norm(vector) for vector in in_weights],
                [tf.norm(guards.where_moved(vector, moves)) for vector in in_weights],
                [tf.stack([_size(part, dtype) for part in parts]) for parts in in_rows],
            ]
            measures = [
                [array.write(i, value) for array, value in zip(arrays, values, strict=True)]
                for arrays, values in zip(measures, measured, strict=True)
            ]
            return step - 1, before, adjoints, sums, by_step, measures, drift

        _, _, adjoints, sums, by_step, measures, drift = tf.while_loop(
            lambda step, *_: step >= start,
            body,
            (stop - 1, last, list(adjoints), sums, by_step, measures, tf.zeros([], dtype)),
            parallel_iterations=1,
        )
        by_step, measures = tf.nest.map_structure(lambda array: array.stack(), (by_step, measures))
        norms, moving, shares = measures
        return BackwardPass(adjoints, sums, by_step, norms, moving, shares, drift)


def _reader(arrays: dict[str, tf.TensorArray]) -> Callable[[tf.Tensor], State]:
    """Returns a function from the number of a step to the recorded state before it."""
    return lambda i: {name: array.read(i) for name, array in arrays.items()}


def _size(part: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.norm(part), dtype)


def loops_of(training: Training, keep: Sequence[bool]) -> Loops:
    """Returns the loops of a training; the same ones at every call."""
    key = ("loops", tuple(keep))
    if key not in training.functions:
        training.functions[key] = Loops(training, keep)
    return training.functions[key]


def run(training: Training, function: Any, *args: Any) -> Any:
    """Calls a compiled loop; an error of the supplier of batches is raised as it is."""
    try:
        return function(*args)
    except tf.errors.OpError:
        training.raise_supplier_error()
        raise
