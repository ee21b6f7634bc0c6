"""Training and adjoints that are not finite, or grow beyond use."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


class DivergedError(FloatingPointError):
    """A hypergradient that is not finite or of no use; the weights and hyperparameters stand."""


def is_bad(state: Any, loss: tf.Tensor) -> tf.Tensor:
    """Returns whether a loss or any slot of a state is not finite, a boolean scalar."""
    # A sum is finite only if all its terms are, and costs one pass.
    total = tf.add_n([tf.reduce_sum(slot) for slot in tf.nest.flatten(state)])
    return tf.logical_not(tf.math.is_finite(total) & tf.math.is_finite(loss))


def check_training(bad_step: tf.Tensor) -> tf.Tensor:
    """Raises DivergedError if training met what is not finite.

    Inside a `tf.function` it is an assertion of the graph.

    Args:
      bad_step: The first bad step, or -1.

    Returns:
      The same; depend on it to keep the order inside a graph.
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


def check_adjoints(norms: dict[str, tf.Tensor], largest_growth: float | None) -> None:
    """Raises DivergedError if ‖∂E/∂w_t‖ is not finite or grew too much on the way back.

    Args:
      norms: By outer loss, in the order of time; the last is at the end of training.
      largest_growth: The largest norm that is accepted, as a multiple of the last; None for any.
    """
    for name, norm in norms.items():
        last, largest = norm[-1], tf.reduce_max(norm)
        finite = tf.math.is_finite(norm)
        small = tf.constant(True)
        if largest_growth is not None:
            small = (largest <= largest_growth * last) | (last == 0)
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
            steps = len(norm) - 1 - int(tf.where(~finite)[-1, 0])
            raise DivergedError(
                f"The adjoint of {name!r} is not finite {steps} steps before the end: an operation "
                "of the training loss has no finite second derivative there (a root or a norm at "
                "zero), or training is chaotic. Look at the loss, lower the learning rate, or take "
                "fewer steps."
            )
        elif not bool(small):
            raise DivergedError(grew.format(name, f"{float(last):.3g}", f"{float(largest):.3g}"))


def check_replay(drift: tf.Tensor, dtype: tf.DType) -> None:
    """Raises RuntimeError if steps that were computed again were other steps.

    Args:
      drift: The largest difference of a weight, relative to 1 + its size.
      dtype: The weights'.
    """
    accepted = tf.constant(float(np.finfo(dtype.as_numpy_dtype).eps) ** 0.5, dtype)
    text = (
        "A step that was computed again moved a weight elsewhere, by a relative {}: the training "
        "loss is no pure function of its step. Draw batches, dropout and augmentation with "
        "tf.random.stateless_* from `step` and `seed`, and keep moving statistics frozen."
    )
    # Not `drift > accepted`: what is not finite is for the other guards.
    same = tf.logical_not(drift > accepted)
    if tf.executing_eagerly():
        if not bool(same):
            raise RuntimeError(text.format(f"{float(drift):.2g}"))
    else:
        tf.debugging.Assert(same, [text.format("amount"), drift])


def check_finite(gradient: Any, method: str) -> None:
    """Raises DivergedError if a hypergradient is not finite.

    Args:
      gradient: By name.
      method: The method's name, for the error's text.
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
    """Raises ValueError for hyperparameters that only a derivative through all steps can reach.

    Args:
      training: Whose hyperparameters.
      method: The method's name, for the error's text.
      instead: What to use instead.
    """
    found = training.connections
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
    """Raises RuntimeError if first weights that were made again are other weights.

    Args:
      difference: The largest difference of a weight.
    """
    text = (
        "Problem(initial=...) made other weights when called again: its noise must be frozen. Draw "
        "it before, or with tf.random.stateless_* from a fixed seed or from its parameter `seed`."
    )
    if not tf.executing_eagerly():
        tf.debugging.Assert(difference == 0, [text, difference])
    elif float(difference) != 0:
        raise RuntimeError(text)
