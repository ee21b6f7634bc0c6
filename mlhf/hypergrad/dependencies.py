"""Through what a hyperparameter reaches the outer losses; one that reaches none is an error."""

from __future__ import annotations

import warnings
from typing import Any

import tensorflow as tf

from custom_op.graphs import detours
from mlhf.hypergrad import differentiability
from mlhf.hypergrad.complete_gradients import Sources, check_dynamics
from mlhf.hypergrad.hyperparameters import INITIAL_VELOCITY, INITIAL_WEIGHTS, Rows
from mlhf.hypergrad.training import Dependencies, Training


def find_dependencies(training: Training, weights: Any, hyper: Rows) -> Dependencies:
    """Traces the losses once and sees what depends on what.

    Args:
      training: A training whose layout and resolver are made.
      weights: A structure of tensors.
      hyper: The hyperparameters.

    Returns:
      What reaches what.

    Raises:
      ValueError: If a hyperparameter reaches no outer loss that it follows, or takes part in a
        random decision, or an operation's second derivative is wrong in TensorFlow.
      NotDifferentiableError: If TensorFlow has no complete gradient of an operation on the way.
    """
    resolver, flat, problem = training.resolver, training.flat, training.problem
    names = resolver.leaf_names
    found: dict[str, Any] = {}

    def trace(vector, *given):
        seed, step = tf.constant(0), tf.constant(0)
        leaves = [tf.identity(leaf) for leaf in given]
        hyper = resolver.pack(leaves)
        with tf.GradientTape() as second:
            second.watch(vector)
            rows = resolver.rows(hyper, step)
            row_leaves = tf.nest.flatten(rows)
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
            still = [flat.names[i] for i, part in enumerate(gradient) if part is None]
            # The gradient of a gather from a weight arrives as slices.
            parts = [tf.convert_to_tensor(part) for part in gradient if part is not None]
        if problem.check_layers:
            differentiability.check_graph(tf.compat.v1.get_default_graph(), row_leaves, names)
        sources.check(parts, "the gradient of the training loss")
        training.reads.find("train_loss", [loss], first.watched_variables(), still)
        if training.batches is not None:
            training.reads.add("batches", training.batches.variables)
        found["still"] = still
        if parts:
            seeds = [tf.ones_like(part) for part in parts]
            through = second.gradient(parts, row_leaves, seeds)
            found["loss"] = _where(names, through)
        else:
            raise ValueError(
                "The training loss does not depend on the weights. Does it read variables instead "
                "of the weights that it is given?"
            )
        direct: dict[str, frozenset] = {}
        results = [loss, *parts]
        for name in problem.outer_losses:
            structure = flat.unflatten(vector)
            weight_leaves = tf.nest.flatten(structure)
            with tf.GradientTape() as tape:
                tape.watch([*leaves, *weight_leaves])
                value = problem.call_outer(name, structure, resolver.pack(leaves), seed)
            sources = Sources(weight_leaves, flat.names, leaves, names)
            sources.check([value], f"the outer loss {name!r}")
            sources.check_draws([value], f"the outer loss {name!r}")
            in_each = tape.gradient(value, [*leaves, *weight_leaves])
            direct[name] = _where(names, in_each)
            results.append(value)
            unread = [
                weight
                for weight, part in zip(flat.names, in_each[len(leaves) :], strict=True)
                if part is None
            ]
            training.reads.find(name, [value], tape.watched_variables(), unread)
            training.reads.check_outer(name, unread, reads_hyper=bool(direct[name]))
        found["direct"] = direct
        with tf.GradientTape() as tape:
            tape.watch(leaves)
            state = training.initial_state(flat.unflatten(vector), resolver.pack(leaves), seed)
            slots = [state[slot] for slot in sorted(state)]
        training.reads.find("initial", slots, [], [])
        sources = Sources([], [], leaves, names)
        sources.check(slots, "the first state")
        sources.check_draws(slots, "the first state")
        # What one step or function writes another one may read.
        detours.check([vector, *leaves], [*results, *slots], repeated=True)
        check_dynamics(training.dynamics, state, vector, resolver.dynamics_values(rows))
        found["initial"] = _where(names, tape.gradient(slots, leaves))
        return loss

    specs = [tf.TensorSpec([flat.size], flat.dtype)] + [
        tf.TensorSpec(shape, dtype)
        for shape, dtype in zip(resolver.leaf_shapes, resolver.leaf_dtypes, strict=True)
    ]
    tf.function(trace, autograph=False).get_concrete_function(*specs)
    if found["still"]:
        warnings.warn(
            f"The training loss does not depend on the weights {found['still']}: they keep their "
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


def _where(names, gradients):
    return frozenset(
        name for name, gradient in zip(names, gradients, strict=False) if gradient is not None
    )


def _check(training, found, own):
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
