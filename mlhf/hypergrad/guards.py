"""Checks that training, adjoints and hypergradients are finite and mean something."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlhf.hypergrad.dynamics.base import State


class DivergedError(FloatingPointError):
    """Raised when a hypergradient is not finite or meaningless.

    Weights and hyperparameters are left unchanged.
    """


def is_bad(state: Any, loss: tf.Tensor) -> tf.Tensor:
    """Returns whether a loss or any slot of a state is not finite, a boolean scalar."""
    # A sum is finite only if all its terms are, and costs one pass.
    total = tf.add_n([tf.reduce_sum(slot) for slot in tf.nest.flatten(state)])
    return tf.logical_not(tf.math.is_finite(total) & tf.math.is_finite(loss))


def check_training(bad_step: tf.Tensor) -> tf.Tensor:
    """Checks that training was finite. Inside a `tf.function` the check is an assertion.

    Args:
      bad_step: The first step that was not finite, or -1.

    Returns:
      The same tensor; depend on it to keep the order inside a graph.

    Raises:
      DivergedError: If a step was not finite.
    """
    text = (
        "Training is not finite from step {} on. Lower the learning rate, or bring the "
        "hyperparameters back to where training converges."
    )
    if tf.executing_eagerly():
        if int(bad_step) >= 0:
            raise DivergedError(text.format(int(bad_step)))
        return bad_step
    with tf.control_dependencies(
        [tf.debugging.Assert(bad_step < 0, [text.format("the one printed here"), bad_step])]
    ):
        return tf.identity(bad_step)


class Growth(NamedTuple):
    """How an adjoint grew on the way back, in the order of time."""

    norms: tf.Tensor  # ‖∂E/∂w_t‖, [T + 1]; the last is at the end of training
    moving: tf.Tensor  # the same over the weights that step t + 1 moves, [T]
    shares: tf.Tensor | None  # norms of what the steps add to the hyperparameters' leaves, [T, L]


def moves(before: State, after: State) -> tf.Tensor:
    """Returns for each weight whether a step changed it or its entry in another slot, [P]."""
    size = before["weights"].shape
    changed = [slot != after[name] for name, slot in before.items() if slot.shape == size]
    return functools.reduce(tf.logical_or, changed)


def where_moved(vector: tf.Tensor, moves: tf.Tensor) -> tf.Tensor:
    """Returns a vector [P] with zeros where `moves` is false."""
    return tf.where(moves, vector, tf.zeros([], vector.dtype))


def bounded(adjoint: State, moves: tf.Tensor) -> State:
    """Returns an adjoint that is clipped in weights that stood still, so as not to overflow.

    There an infinity would be multiplied by the zero that stands for no influence, which gives NaN.
    """
    limit = _largest(adjoint["weights"].dtype)

    def bound(slot: tf.Tensor) -> tf.Tensor:
        if slot.shape != moves.shape:
            return slot
        # Entries that are not finite already are left to the checks.
        stays = moves | ~tf.math.is_finite(slot)
        return tf.where(stays, slot, tf.clip_by_value(slot, -limit, limit))

    return {name: bound(slot) for name, slot in adjoint.items()}


def _largest(dtype: tf.DType) -> float:
    # Even the sum of many squares of it is finite.
    return float(np.finfo(dtype.as_numpy_dtype).max) ** 0.5 / 1e4


def _is_tame(growth: Growth, largest_growth: float) -> tf.Tensor:
    """Returns whether an adjoint stayed within `largest_growth` where it matters, a boolean scalar.

    A weight whose gradient is exactly zero stands still, and under Adam its adjoint is multiplied
    by η H / √ε in every step: the derivative is wild, but nothing happens there. It does no harm
    if no hyperparameter acts on the weight, which shows in the contributions of the steps.
    """
    last = growth.norms[-1]
    calm = growth.norms <= largest_growth * last
    everywhere = tf.reduce_all(calm) | (last == 0)
    if growth.shares is None:
        return everywhere
    # A step's share is made of the adjoint after the step.
    calm = calm[1:, None]
    zero = tf.zeros([], last.dtype)
    usual = tf.reduce_max(tf.where(calm, growth.shares, zero), 0)
    wild = tf.reduce_max(tf.where(calm, zero, growth.shares), 0)
    moving = tf.reduce_all(growth.moving <= largest_growth * last)
    return everywhere | (moving & tf.reduce_all(wild <= largest_growth * usual))


def check_adjoints(growth: dict[str, Growth], largest_growth: float | None) -> None:
    """Checks that ‖∂E/∂w_t‖ is finite and did not grow too much on the way back.

    Args:
      growth: The growth of the adjoint of each outer loss.
      largest_growth: The largest norm that is accepted, as a multiple of the last; None for any.
        Any norm is accepted in weights that stand still and that no hyperparameter acts on.

    Raises:
      DivergedError: If an adjoint is not finite or grew more.
    """
    for name, adjoint in growth.items():
        norms = adjoint.norms
        last, largest = norms[-1], tf.reduce_max(norms)
        finite = tf.math.is_finite(norms)
        small = tf.constant(True) if largest_growth is None else _is_tame(adjoint, largest_growth)
        grew = (
            "The adjoint of {!r} grew from {} to {} on the way back: training is chaotic here and "
            "the hypergradient, exact as it is, tells nothing. Lower the learning rate, take fewer "
            "steps, truncate, or raise largest_growth."
        )
        if not tf.executing_eagerly():
            tf.debugging.Assert(
                tf.reduce_all(finite) & small, [grew.format(name, "the", "following"), largest]
            )
        elif not bool(finite[-1]):
            raise DivergedError(
                f"The gradient of {name!r} at the last weights is not finite: the outer loss is "
                "not, or its derivative (a logarithm or a root at zero), or the weights are far "
                "out. Look at the loss, or lower the learning rate."
            )
        elif not bool(tf.reduce_all(finite)):
            steps = len(norms) - 1 - int(tf.where(~finite)[-1, 0])
            raise DivergedError(
                f"The adjoint of {name!r} is not finite {steps} steps before the end: an operation "
                "of the training loss has no finite second derivative there (a root or a norm at "
                "zero), or training is chaotic. Look at the loss, lower the learning rate, or take "
                "fewer steps."
            )
        elif not bool(small):
            raise DivergedError(grew.format(name, f"{float(last):.3g}", f"{float(largest):.3g}"))


def check_replay(drift: tf.Tensor, dtype: tf.DType) -> None:
    """Checks that steps that were computed again led to the same weights.

    Args:
      drift: The largest difference of a weight, relative to 1 + its size.
      dtype: The dtype of the weights.

    Raises:
      RuntimeError: If they did not.
    """
    accepted = tf.constant(float(np.finfo(dtype.as_numpy_dtype).eps) ** 0.5, dtype)
    text = (
        "A step that was computed again moved a weight elsewhere, by a relative {}: the training "
        "loss is no pure function of its step. Draw batches, dropout and augmentation with "
        "tf.random.stateless_* from `step` and `seed`, and keep moving statistics frozen."
    )
    # Written so that a NaN passes: values that are not finite are left to the other guards.
    same = tf.logical_not(drift > accepted)
    if tf.executing_eagerly():
        if not bool(same):
            raise RuntimeError(text.format(f"{float(drift):.2g}"))
    else:
        tf.debugging.Assert(same, [text.format("amount"), drift])


def check_finite(gradient: Any, method: str) -> None:
    """Checks that a hypergradient is finite.

    Args:
      gradient: The hypergradient, by the names of the hyperparameters.
      method: The name of the method, for the error's text.

    Raises:
      DivergedError: If it is not finite.
    """
    text = (
        f"The hypergradient of {method} is not finite for {{!r}}. Lower the learning rate, take "
        "fewer steps, or look for an operation whose second derivative is not finite there (a root "
        "or a norm at zero)."
    )
    for name, value in gradient.items():
        for leaf in tf.nest.flatten(value):
            finite = tf.reduce_all(tf.math.is_finite(leaf))
            if not tf.executing_eagerly():
                tf.debugging.Assert(finite, [text.format(name)])
            elif not bool(finite):
                raise DivergedError(text.format(name))


def check_identifiable(training: Any, method: str, instead: str) -> None:
    """Refuses hyperparameters that only a derivative through all steps can reach.

    Args:
      training: The training with the hyperparameters.
      method: The name of the method, for the error's text.
      instead: The methods to use instead, for the error's text.

    Raises:
      ValueError: If a hyperparameter acts on the first state.
    """
    found = training.dependencies
    lost = sorted(found.initial - found.dynamics - found.loss - found.direct)
    if lost:
        raise ValueError(
            f"Expected hyperparameters that act during the last steps, got {lost}, which act on "
            f"the first state only: {method} would call their gradient zero. Use {instead}."
        )
    partly = sorted(found.initial)
    if partly:
        raise ValueError(
            f"Expected hyperparameters that act on the steps alone, got {partly}, which act on the "
            f"first state too: {method} would lose that part of their gradient. Use {instead}."
        )


def check_initial(difference: tf.Tensor) -> None:
    """Checks that first weights that were made again are the same.

    Args:
      difference: The largest difference of a weight.

    Raises:
      RuntimeError: If they are not.
    """
    text = (
        "Problem(initial=...) made other weights when called again: its noise must be frozen. Draw "
        "it before, or with tf.random.stateless_* from a fixed seed or from its parameter `seed`."
    )
    if not tf.executing_eagerly():
        tf.debugging.Assert(difference == 0, [text, difference])
    elif float(difference) != 0:
        raise RuntimeError(text)
