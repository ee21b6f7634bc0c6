"""A problem for weights and hyperparameters of given shapes: its steps and their derivatives.

All methods are made of these functions. They are pure, trace into whatever graph calls them, and
work on flat vectors: weights are [P], states dictionaries of such vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.hypergrad import arguments
from mlhf.hypergrad.batches import Batches
from mlhf.hypergrad.dynamics.base import State, StepLoss, scaled
from mlhf.hypergrad.flat import FlatWeights
from mlhf.hypergrad.hyperparameters import (
    INITIAL_VELOCITY,
    INITIAL_WEIGHTS,
    Resolver,
    Rows,
)
from mlhf.hypergrad.problem import Problem
from mlhf.hypergrad.variables import VariablesRead


class Outer(NamedTuple):
    """The outer losses at the last weights, by name."""

    values: dict[str, tf.Tensor]  # scalars
    in_weights: dict[str, tf.Tensor]  # E_w, [P]
    direct: dict[str, list[tf.Tensor]]  # E_λ for each leaf of the hyperparameters


class GradientProducts(NamedTuple):
    """A step's gradient g and the products of its derivatives with a vector u [P]."""

    loss: tf.Tensor
    gradient: tf.Tensor  # [P]
    in_weights: tf.Tensor  # H u, [P]
    in_rows: list[tf.Tensor]  # ∂<g, u>/∂λ for each leaf of the step's hyperparameters


class Dependencies(NamedTuple):
    """The names of the hyperparameters' leaves, by the way in which they reach an outer loss."""

    dynamics: frozenset[str]  # as the dynamics' own
    loss: frozenset[str]  # through the gradient of the training loss
    initial: frozenset[str]  # through the first state
    direct: frozenset[str]  # the outer losses read them


class Training:
    """The steps of a training and their derivatives.

    Attributes:
      problem: The problem.
      flat: The layout of the weights in vectors [P].
      resolver: The values of the hyperparameters in each step.
      dynamics: The dynamics of the problem.
      steps: The number of steps, T.
      dependencies: The ways in which hyperparameters can influence the outer losses, which
        `binding.bind` finds with the training itself.
      reads: The variables that the losses read.
      functions: The functions that methods compiled for this training, by the method's key.
    """

    dependencies: Dependencies

    def __init__(self, problem: Problem, weights: Any, hyper: Rows):
        """Lays out a problem for weights and hyperparameters of these shapes.

        Args:
          problem: The problem to train.
          weights: A structure of tensors.
          hyper: The hyperparameters as `hyperparameters.as_tensors` returns them.

        Raises:
          ValueError: If the shape of a hyperparameter fits no meaning.
        """
        self.problem, self.dynamics, self.steps = problem, problem.dynamics, problem.steps
        self.flat = FlatWeights(weights, problem.groups)
        self.resolver = Resolver(hyper, self.dynamics, self.flat, self.steps, problem.schedules)
        self.functions: dict[Any, Any] = {}
        self.batches = Batches(problem.batches) if problem.batches is not None else None
        self.reads = VariablesRead(weights, self.flat)
        if INITIAL_VELOCITY in hyper:
            arguments.like_weights(hyper[INITIAL_VELOCITY], self.flat, "'initial_velocity'")

    def raise_supplier_error(self) -> None:
        """Raises the last error of the supplier of batches, if there was one."""
        if self.batches is not None and self.batches.error is not None:
            error, self.batches.error = self.batches.error, None
            raise error

    # The beginning.

    def initial_state(self, weights: Any, hyper: Rows, seed: tf.Tensor) -> State:
        """Returns the state before the first step.

        Args:
          weights: The structure that the user passed; used where no hyperparameter says otherwise.
          hyper: The hyperparameters.
          seed: The seed, an int32 scalar.

        Returns:
          The state of the dynamics.
        """
        if INITIAL_WEIGHTS in hyper:
            weights = hyper[INITIAL_WEIGHTS]
        elif self.problem.initial is not None:
            weights = self.problem.call_initial(hyper, seed)
        state = self.dynamics.init(self.flat.flatten(weights), self._first_values(hyper))
        if INITIAL_VELOCITY in hyper:
            velocity = self.flat.flatten(hyper[INITIAL_VELOCITY])
            state = self.dynamics.with_velocity(state, velocity)
        return state

    def initial_vjp(
        self, weights: Any, hyper: Rows, seed: tf.Tensor, adjoints: Sequence[State]
    ) -> tuple[list[Any], list[list[tf.Tensor]], tf.Tensor]:
        """Takes adjoints of the first state to the weights and the hyperparameters.

        Args:
          weights: As for `initial_state`.
          hyper: As for `initial_state`.
          seed: As for `initial_state`.
          adjoints: The adjoint of the first state for each outer loss.

        Returns:
          For each adjoint, the gradient in the first weights, a structure; for each adjoint, a list
          of the gradients in the leaves of the hyperparameters; and the first weights [P].
        """
        leaves = [tf.identity(leaf) for leaf in tf.nest.flatten(hyper)]
        weight_leaves = [tf.identity(leaf) for leaf in tf.nest.flatten(weights)]
        if INITIAL_WEIGHTS in hyper or self.problem.initial is not None:
            state = self.initial_state(weights, hyper, seed)
            vector = state["weights"]
            weight_leaves = [tf.identity(x) for x in tf.nest.flatten(self.flat.unflatten(vector))]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(weight_leaves)
            tape.watch(leaves)
            state = self.initial_state(weights, self.resolver.pack(leaves), seed)
            # The first weights as a separate leaf, for ∂E/∂w₀ however they were made.
            direct = self.dynamics.init(
                tf.concat([tf.reshape(leaf, [-1]) for leaf in weight_leaves], 0),
                self._first_values(hyper),
            )
        names = sorted(state)
        in_weights, in_hyper = [], []
        for adjoint in adjoints:
            seeds = [adjoint[name] for name in names]
            found = tape.gradient([direct[name] for name in names], weight_leaves, seeds)
            in_weights.append(tf.nest.pack_sequence_as(weights, _dense(found, weight_leaves)))
            found = tape.gradient([state[name] for name in names], leaves, seeds)
            in_hyper.append(_dense(found, leaves))
        return in_weights, in_hyper, state["weights"]

    def _first_values(self, hyper: Rows) -> dict[str, tf.Tensor]:
        return self.resolver.dynamics_values(self.resolver.rows(hyper, 0))

    # A step.

    def loss(self, weights: Any, rows: Rows, step: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the training loss of a step at a structure of weights, a scalar."""
        batch = self.batches(step, seed) if self.batches is not None else None
        return self.problem.call_train(weights, rows, step, batch, seed)

    def step_loss(self, rows: Rows, step: tf.Tensor, seed: tf.Tensor) -> StepLoss:
        """Returns the training loss of a step as a function of flat weights.

        Args:
          rows: The hyperparameters in this step, from `resolver.rows`.
          step: The step, an int32 scalar.
          seed: The seed, an int32 scalar.

        Returns:
          Functions of the weights with one batch in common.
        """
        batch = self.batches(step, seed) if self.batches is not None else None

        # Made here because inside the loop of a line search, tensors that the loop captures would
        # carry tangents.
        fixed = tf.nest.map_structure(_constant, rows)

        def value(vector: tf.Tensor) -> tf.Tensor:
            weights = self.flat.unflatten(tf.stop_gradient(vector))
            return self.problem.call_train(weights, fixed, step, batch, seed)

        def value_and_gradient(vector: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # Cut into leaves outside the tape, so that their gradients are concatenated only once.
            weights = self.flat.unflatten(vector)
            leaves = tf.nest.flatten(weights)
            with tf.GradientTape() as tape:
                tape.watch(leaves)
                loss = self.problem.call_train(weights, rows, step, batch, seed)
            gradient = self.flat.flatten(_dense(tape.gradient(loss, leaves), leaves))
            return loss, gradient

        return StepLoss(value, value_and_gradient)

    def step(
        self, state: State, rows: Rows, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[State, tf.Tensor]:
        """Takes a step of training.

        Args:
          state: The state before the step.
          rows: The hyperparameters in this step.
          step: The step, an int32 scalar.
          seed: The seed, an int32 scalar.

        Returns:
          The state after the step and the training loss before it.
        """
        values = self.resolver.dynamics_values(rows)
        return self.dynamics.step(state, self.step_loss(rows, step, seed), values)

    def step_vjp(
        self,
        state: State,
        after: State,
        adjoints: Sequence[State],
        rows: Rows,
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> tuple[list[State], list[list[tf.Tensor]]]:
        """Takes adjoints of the state after a step to the state before it, Aᵀα and Bᵀα.

        Goes back through the update first, then through the gradient, whose backward pass is a
        product with the Hessian: one tape over both would take twice as long.

        Args:
          state: The state before the step.
          after: The state after it.
          adjoints: The adjoint of the state after the step for each outer loss.
          rows: The hyperparameters in this step.
          step: The step, an int32 scalar.
          seed: The seed, an int32 scalar.

        Returns:
          For each adjoint, the adjoint of the state before the step; and for each adjoint, its
          gradients in the leaves of `rows`.
        """
        many = len(adjoints) > 1
        slots, leaves = sorted(state), tf.nest.flatten(rows)
        before = [state[slot] for slot in slots]
        with tf.GradientTape(persistent=many) as rows_to_values:
            rows_to_values.watch(leaves)
            values = self.resolver.dynamics_values(self.resolver.pack(leaves))
        names = sorted(values)
        own = {name: tf.identity(values[name]) for name in names}
        wanted = set(names) & set(rows)
        own_list = [own[name] for name in names]
        with tf.GradientTape(persistent=many) as to_point:
            to_point.watch(before + own_list)
            point = self.dynamics.point(dict(zip(slots, before, strict=True)), own)
        is_weights = point is state["weights"]
        place = tf.identity(point)
        loss = self.step_loss(self.resolver.pack(leaves), step, seed)
        with tf.GradientTape(persistent=many) as to_gradient:
            to_gradient.watch([place, *leaves])
            value, gradient = loss.value_and_gradient(place)
        slope = tf.identity(gradient)
        scales = self.dynamics.scales(loss, place, value, slope, own)
        pulled, in_rows = [], []
        for adjoint in adjoints:
            pull = self.dynamics.pull(state, slope, scaled(own, scales), after, adjoint, wanted)
            d_before = [pull.state[slot] for slot in slots]
            d_slope = pull.gradient
            d_own = [pull.values.get(name) for name in names]
            d_own = [
                part * scales[name] if part is not None and name in scales else part
                for name, part in zip(names, d_own, strict=True)
            ]
            d_rows: list[Any] = [None] * len(leaves)
            if d_slope is not None:
                d_place, *d_rows = to_gradient.gradient(gradient, [place, *leaves], d_slope)
                if d_place is not None:
                    if is_weights:
                        through = [d_place if slot == "weights" else None for slot in slots]
                        through += [None] * len(names)
                    else:
                        through = to_point.gradient(point, before + own_list, d_place)
                    d_before = _sum(d_before, through[: len(slots)])
                    d_own = _sum(d_own, through[len(slots) :])
            used = [i for i, part in enumerate(d_own) if part is not None]
            if used:
                d_rows = _sum(
                    d_rows,
                    rows_to_values.gradient(
                        [values[names[i]] for i in used], leaves, [d_own[i] for i in used]
                    ),
                )
            pulled.append(dict(zip(slots, _dense(d_before, before), strict=True)))
            in_rows.append(_dense(d_rows, leaves))
        return pulled, in_rows

    def gradient(
        self, vector: tf.Tensor, rows: Rows, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a step's training loss and its gradient [P] at flat weights [P]."""
        return self.step_loss(rows, step, seed).value_and_gradient(vector)

    def gradient_vjp(
        self,
        vector: tf.Tensor,
        direction: tf.Tensor,
        rows: Rows,
        step: tf.Tensor,
        seed: tf.Tensor,
    ) -> GradientProducts:
        """Returns a step's gradient, and H u and ∂<g, u>/∂λ in one backward pass.

        Args:
          vector: The weights, [P].
          direction: The vector u, [P].
          rows: The hyperparameters in this step.
          step: The step, an int32 scalar.
          seed: The seed, an int32 scalar.

        Returns:
          The products.
        """
        leaves = tf.nest.flatten(rows)
        with tf.GradientTape() as tape:
            tape.watch(vector)
            tape.watch(leaves)
            loss, gradient = self.gradient(vector, self.resolver.pack(leaves), step, seed)
        found = tape.gradient(gradient, [vector, *leaves], direction)
        in_weights, *in_rows = _dense(found, [vector, *leaves])
        return GradientProducts(loss, gradient, in_weights, in_rows)

    # The end.

    def outer(self, vector: tf.Tensor, hyper: Rows, seed: tf.Tensor) -> Outer:
        """Returns the outer losses at the last weights and their direct derivatives.

        Args:
          vector: The weights, [P].
          hyper: The hyperparameters, with whole schedules.
          seed: The seed, an int32 scalar.

        Returns:
          Values and derivatives by name.
        """
        leaves = tf.nest.flatten(hyper)
        values, in_weights, direct = {}, {}, {}
        for name in self.problem.outer_losses:
            with tf.GradientTape() as tape:
                tape.watch(vector)
                tape.watch(leaves)
                values[name] = self.problem.call_outer(
                    name, self.flat.unflatten(vector), self.resolver.pack(leaves), seed
                )
            found = tape.gradient(values[name], [vector, *leaves])
            in_weights[name], *direct[name] = _dense(found, [vector, *leaves])
        return Outer(values, in_weights, direct)

    def first_adjoints(self, state: State, outer: Outer) -> list[State]:
        """Returns ∂E/∂s_T for each outer loss: E_w in the weights and zero elsewhere."""
        return [
            {
                name: outer.in_weights[loss] if name == "weights" else tf.zeros_like(slot)
                for name, slot in state.items()
            }
            for loss in self.problem.outer_losses
        ]


def _constant(leaf: tf.Tensor) -> tf.Tensor:
    return tf.stop_gradient(leaf)


def _sum(parts: Sequence[Any], more: Sequence[Any]) -> list[Any]:
    """Returns the sums of gradients, where None stands for zero."""
    return [
        a if b is None else b if a is None else tf.convert_to_tensor(a) + tf.convert_to_tensor(b)
        for a, b in zip(parts, more, strict=True)
    ]


def _dense(found: Sequence[Any], like: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns gradients as tensors: zeros for None, whole tensors for the slices of a gather."""
    return [
        tf.zeros_like(leaf) if gradient is None else tf.convert_to_tensor(gradient)
        for gradient, leaf in zip(found, like, strict=True)
    ]
