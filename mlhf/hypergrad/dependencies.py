"""Finds how each hyperparameter reaches the outer losses; one that reaches none is an error."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op.graphs import detours
from mlhf.hypergrad import differentiability
from mlhf.hypergrad.complete_gradients import Sources, check_dynamics
from mlhf.hypergrad.hyperparameters import INITIAL_VELOCITY, INITIAL_WEIGHTS, Rows
from mlhf.hypergrad.training import Dependencies, Training


def find_dependencies(training: Training, weights: Any, hyper: Rows) -> Dependencies:
    """Traces the losses once to see which hyperparameters each of them depends on.

    Args:
      training: A training with its layout and resolver.
      weights: A structure of tensors.
      hyper: The hyperparameters.

    Returns:
      The ways by which the hyperparameters reach the outer losses.

    Raises:
      ValueError: If a hyperparameter reaches no outer loss that it follows, or takes part in a
        random decision, or an operation's second derivative is wrong in TensorFlow.
      NotDifferentiableError: If TensorFlow has no complete gradient of an operation on the way.
    """
    resolver, flat, names = training.resolver, training.flat, training.resolver.leaf_names
    found: dict[str, Any] = {}

    def trace(vector: tf.Tensor, *given: tf.Tensor) -> tf.Tensor:
        seed = tf.constant(0)
        leaves = [tf.identity(leaf) for leaf in given]
        inner = _trace_training_loss(training, vector, leaves, seed)
        values, found["direct"] = _trace_outer_losses(training, vector, leaves, seed)
        with tf.GradientTape() as tape:
            tape.watch(leaves)
            state = training.initial_state(flat.unflatten(vector), resolver.pack(leaves), seed)
            slots = [state[slot] for slot in sorted(state)]
        training.reads.find("initial", slots, [], [])
        sources = Sources([], [], leaves, names)
        sources.check(slots, "the first state")
        sources.check_draws(slots, "the first state")
        # A step or function may read a variable that another one writes.
        results = [inner.value, *inner.gradient, *values, *slots]
        detours.check([vector, *leaves], results, repeated=True)
        check_dynamics(training.dynamics, state, vector, resolver.dynamics_values(inner.rows))
        found["unread"], found["loss"] = inner.unread, inner.reached_by
        found["initial"] = _where(names, tape.gradient(slots, leaves))
        return inner.value

    specs = [tf.TensorSpec([flat.size], flat.dtype)] + [
        tf.TensorSpec(shape, dtype)
        for shape, dtype in zip(resolver.leaf_shapes, resolver.leaf_dtypes, strict=True)
    ]
    tf.function(trace, autograph=False).get_concrete_function(*specs)
    if found["unread"]:
        warnings.warn(
            f"The training loss does not depend on the weights {found['unread']}: they keep their "
            "first values.",
            stacklevel=4,
        )
    own = frozenset(
        name
        for name, owner in zip(names, resolver.leaf_owner, strict=True)
        if owner in training.dynamics.constants
    )
    _check(training, found, own)
    direct = frozenset().union(*found["direct"].values())
    return Dependencies(own, found["loss"], found["initial"], direct)


class _TrainingLoss(NamedTuple):
    """The traced training loss of a step."""

    value: tf.Tensor
    gradient: list[tf.Tensor]  # in the weights that it depends on
    rows: Rows  # the hyperparameters in the step
    reached_by: frozenset[str]  # the hyperparameters' leaves that act on the gradient
    unread: list[str]  # the weights that it does not depend on


def _trace_training_loss(
    training: Training, vector: tf.Tensor, leaves: Sequence[tf.Tensor], seed: tf.Tensor
) -> _TrainingLoss:
    """Traces the training loss and its gradient, and checks that they are differentiable."""
    resolver, flat, names = training.resolver, training.flat, training.resolver.leaf_names
    step = tf.constant(0)
    with tf.GradientTape() as second:
        second.watch(vector)
        row_leaves = tf.nest.flatten(resolver.rows(resolver.pack(leaves), step))
        second.watch(row_leaves)
        rows = resolver.pack(row_leaves)
        structure = flat.unflatten(vector)
        weight_leaves = tf.nest.flatten(structure)
        with tf.GradientTape() as first:
            first.watch(weight_leaves)
            loss = training.loss(structure, rows, step, seed)
        sources = Sources(weight_leaves, flat.names, row_leaves, names)
        sources.check_in_weights([loss], "the training loss")
        sources.check_draws([loss], "the training loss")
        gradient = first.gradient(loss, weight_leaves)
        unread = [flat.names[i] for i, part in enumerate(gradient) if part is None]
        # The gradient of a gather from a weight arrives as slices.
        parts = [tf.convert_to_tensor(part) for part in gradient if part is not None]
    if training.problem.check_layers:
        differentiability.check_graph(tf.compat.v1.get_default_graph(), row_leaves, names)
    sources.check(parts, "the gradient of the training loss")
    training.reads.find("train_loss", [loss], first.watched_variables(), unread)
    if training.batches is not None:
        training.reads.add("batches", training.batches.variables)
    if not parts:
        raise ValueError(
            "The training loss does not depend on the weights. Does it read variables instead "
            "of the weights that it is given?"
        )
    through = second.gradient(parts, row_leaves, [tf.ones_like(part) for part in parts])
    return _TrainingLoss(loss, parts, rows, _where(names, through), unread)


def _trace_outer_losses(
    training: Training, vector: tf.Tensor, leaves: Sequence[tf.Tensor], seed: tf.Tensor
) -> tuple[list[tf.Tensor], dict[str, frozenset[str]]]:
    """Traces the outer losses, and checks that they are differentiable.

    Returns:
      Their values; and by the name of each the hyperparameters' leaves that it reads.
    """
    resolver, flat, names = training.resolver, training.flat, training.resolver.leaf_names
    values, direct = [], {}
    for name in training.problem.outer_losses:
        structure = flat.unflatten(vector)
        weight_leaves = tf.nest.flatten(structure)
        with tf.GradientTape() as tape:
            tape.watch([*leaves, *weight_leaves])
            value = training.problem.call_outer(name, structure, resolver.pack(leaves), seed)
        sources = Sources(weight_leaves, flat.names, leaves, names)
        sources.check([value], f"the outer loss {name!r}")
        sources.check_draws([value], f"the outer loss {name!r}")
        in_each = tape.gradient(value, [*leaves, *weight_leaves])
        direct[name] = _where(names, in_each)
        values.append(value)
        unread = [
            weight
            for weight, part in zip(flat.names, in_each[len(leaves) :], strict=True)
            if part is None
        ]
        training.reads.find(name, [value], tape.watched_variables(), unread)
        training.reads.check_outer(name, unread, reads_hyper=bool(direct[name]))
    return values, direct


def _where(names: Sequence[str], gradients: Sequence[Any]) -> frozenset[str]:
    """Returns the names of the leaves that have a gradient."""
    return frozenset(
        name for name, gradient in zip(names, gradients, strict=False) if gradient is not None
    )


def _check(training: Training, found: dict[str, Any], own: frozenset[str]) -> None:
    """Raises ValueError if a hyperparameter reaches no outer loss that it follows."""
    resolver, problem = training.resolver, training.problem
    through_training = own | found["loss"] | found["initial"]
    for name, owner in zip(resolver.leaf_names, resolver.leaf_owner, strict=True):
        direct = any(name in found["direct"][loss] for loss in problem.followed(owner))
        if name in through_training or direct:
            continue
        if owner in (INITIAL_WEIGHTS, INITIAL_VELOCITY):
            continue
        elsewhere = [loss for loss, names in found["direct"].items() if name in names]
        detail = (
            f" Only {elsewhere} depends on it, which it does not follow; see follows=."
            if elsewhere
            else ""
        )
        raise ValueError(
            f"The hyperparameter {name!r} has no influence on what it is learned from: neither the "
            "gradient of the training loss, nor the first weights, nor the outer loss depends on "
            f"it, and it is none of the dynamics' own {sorted(training.dynamics.constants)}."
            f"{detail} Is its name misspelt, or does a loss read a variable or a NumPy copy of it?"
        )
    unknown = set(problem.follows) - set(resolver.names)
    if unknown:
        raise ValueError(
            f"Expected follows= to name hyperparameters {resolver.names}, got {sorted(unknown)}."
        )
