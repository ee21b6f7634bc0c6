"""Invalid targets of a loss: an error if their values are known, else NaN.

A class that does not exist, a probability above 1 or a negative count is out of range. Targets that
are known when a loss is evaluated (eagerly, or a constant of the traced function) raise ValueError,
at no cost later. In a `tf.function` an assertion reports others. XLA drops assertions, and
TensorFlow's kernels then read another class, or none: so value, gradient and products become NaN.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from custom_op import tensorflow_internals as internals
from custom_op.tensorflow_internals import is_compiled

# The rounding error allowed in probabilities that were mixed or smoothed.
ROUNDING = 1e-4


class Bounds(NamedTuple):
    """The range of valid targets.

    Attributes:
      low: The lower bound.
      high: The upper bound.
      what: A description with the bounds, such as "labels from 0 to 9, the classes of 10 logits".
      advice: The way out for other targets.
    """

    low: float
    high: float
    what: str
    advice: str


def are_known(loss: Any, outputs: tf.Tensor, targets: Any, mask: tf.Tensor | None) -> bool:
    """Checks targets whose values are known, even if the traced function will be compiled.

    Args:
      loss: A `MeanLoss`.
      outputs: The network's outputs, for their shape and dtype.
      targets: The targets as given.
      mask: The terms that count, as booleans; None for all.

    Returns:
      Whether the targets were known, and so are valid.

    Raises:
      ValueError: If they are out of range or not finite.
    """
    known, there = _known(targets), None if mask is None else _known(mask)
    if known is None or (mask is not None and there is None):
        return False
    with tf.init_scope():
        prepared = loss.prepare(outputs, tf.constant(known))
        present = loss.present(prepared)
        bounds, values = loss.target_bounds(outputs, prepared), prepared.numpy()
    if present is not None:
        present = present.numpy()
        there = present if there is None else _expand(there, present.ndim) & present
    check_values(loss, bounds, values if there is None else values[there])
    return True


def in_range(
    loss: Any, outputs: tf.Tensor, targets: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Returns targets in range, and whether they were; in a graph it asserts that, where possible.

    Args:
      loss: A `MeanLoss`.
      outputs: The network's outputs, for their shape.
      targets: Prepared targets, zero where they are masked.

    Returns:
      The targets, or zeros if one is a class that does not exist, so that no kernel fails with a
      message of its own; and a boolean. The boolean is None for a loss that takes any number:
      values that are not finite show in the loss.
    """
    bounds = loss.target_bounds(outputs, targets)
    if bounds is None:
        return targets, None
    least, most = tf.reduce_min(targets), tf.reduce_max(targets)
    low, high = (tf.constant(bound, targets.dtype) for bound in bounds[:2])
    if targets.dtype.is_integer:
        sound = (least >= low) & (most <= high)
    else:
        # In this form a NaN, which shows in the loss anyway, passes.
        sound = ~((least < low) | (most > high))
    say(sound, [f"{_sentence(loss, bounds)}, got", least, "to", most, f"; {bounds.advice}."])
    if targets.dtype.is_integer:
        targets = tf.where(sound, targets, tf.zeros([], targets.dtype))
    return targets, sound


def assert_in_range(loss: Any, outputs: tf.TensorSpec, targets: tf.Tensor) -> None:
    """Makes the graph that is being traced raise for targets that are out of range.

    Args:
      loss: A `MeanLoss`.
      outputs: The shape and dtype of the network's outputs.
      targets: The targets as given.
    """
    prepared = loss.prepare(outputs, targets)
    present = loss.present(prepared)
    if present is not None:
        prepared = tf.where(present, prepared, tf.zeros_like(prepared))
    in_range(loss, outputs, prepared)


def check_values(loss: Any, bounds: Bounds | None, values: np.ndarray, finite: bool = True) -> None:
    """Checks known targets.

    Args:
      loss: A `MeanLoss`.
      bounds: The loss's `target_bounds`; None for all finite numbers.
      values: The targets.
      finite: Whether to refuse targets that are not finite.

    Raises:
      ValueError: If a target is invalid.
    """
    if bounds is not None and values.size:
        least, most = values.min(), values.max()
        if bounds.low <= least and most <= bounds.high:
            return
        wrong = values[(values < bounds.low) | (values > bounds.high)]
        if wrong.size:
            raise ValueError(
                f"{_sentence(loss, bounds)}, got {wrong[0]} ({wrong.size} of {values.size} are "
                f"out of range); {bounds.advice}."
            )
    if finite and values.dtype.kind not in "iub":
        wrong = values[~np.isfinite(values.astype(np.float64))]
        if wrong.size:
            raise ValueError(
                f"{type(loss).__name__} expected finite targets, got {wrong[0]} ({wrong.size} of "
                f"{values.size}); leave these examples out, or mask them with mask=."
            )


def check_weights(loss: Any, weights: tf.Tensor | None, mask: tf.Tensor | None) -> None:
    """Raises ValueError for known weights that are not finite, except where they are masked."""
    known = None if weights is None else _known(weights)
    there = None if mask is None else _known(mask)
    if known is None or (mask is not None and there is None):
        return
    if there is not None:
        rank = max(known.ndim, there.ndim)
        known, there = np.broadcast_arrays(_expand(known, rank), _expand(there, rank))
        known = known[there]
    wrong = known[~np.isfinite(known)]
    if wrong.size:
        raise ValueError(
            f"{type(loss).__name__} expected finite weights, got {wrong[0]} ({wrong.size} of "
            f"{known.size}); a weight of 0, or mask=, leaves an example out."
        )


def shapes_agree(
    loss: Any, outputs: tf.Tensor, targets: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Checks shapes that are known only when a graph runs: none may be broadcast or empty.

    Args:
      loss: A `Loss` whose `check` was passed.
      outputs: The network's outputs.
      targets: Prepared targets.

    Returns:
      The targets with the rank that they must have, and whether the shapes agree; None instead of
      True.

    Raises:
      ValueError: If the batch is known to be empty.
    """
    if outputs.shape.num_elements() == 0:
        raise ValueError(
            f"{type(loss).__name__} expected a batch with at least one example, got outputs of "
            f"shape {outputs.shape}; leave empty batches out."
        )
    axes = loss.target_axes(outputs, targets)
    if axes is None:
        return targets, None
    expected = outputs.shape[:axes]
    if expected.is_fully_defined() and targets.shape.is_fully_defined():
        return targets, None
    sides, found = tf.shape(outputs)[:axes], tf.shape(targets)
    # Missing axes get the length -1.
    fill = [[0, tf.maximum(0, axes - tf.size(found))]]
    same = tf.reduce_all(tf.pad(found, fill, constant_values=-1)[:axes] == sides)
    sound = same & (tf.size(found) == axes) & tf.reduce_all(sides > 0)
    text = (
        f"{type(loss).__name__} expected targets of the outputs' shape"
        f"{' without its last axis' if axes < outputs.shape.rank else ''}, and no empty batch; got "
        "outputs of shape"
    )
    spoken = say(sound, [text, tf.shape(outputs), "and targets of shape", found])
    if targets.shape.rank is None:
        with tf.control_dependencies([] if spoken is None else [spoken]):
            targets = tf.ensure_shape(targets, expected)
    return targets, sound


def say(sound: tf.Tensor, parts: list[Any]) -> Any:
    """Asserts in a running graph; returns the operation, or None under XLA."""
    if is_compiled():
        return None
    return tf.raw_ops.Assert(
        condition=sound, data=[tf.convert_to_tensor(part) for part in parts], summarize=16
    )


def spoken(error: tf.errors.InvalidArgumentError) -> str | None:
    """Returns the sentence of a failed assertion of `say`; None for other errors."""
    match = re.search(r"assertion failed: \[(\w+ expected .*)\]", error.message)
    return None if match is None else match[1].replace("] [", " ").replace(" ;", ";")


@contextlib.contextmanager
def spoken_of(where: str = "") -> Iterator[None]:
    """Turns a failed assertion of `say` into a ValueError, prefixed by a place."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        sentence = spoken(error)
        if sentence is None:
            raise
        raise ValueError(where + sentence) from None


def both(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor | None:
    """Returns whether both hold, where None stands for true."""
    return b if a is None else a if b is None else a & b


def _sentence(loss: Any, bounds: Bounds) -> str:
    return f"{type(loss).__name__} expected {bounds.what}"


def _known(value: Any) -> np.ndarray | None:
    """Returns a value if it is known, also while a graph is being traced."""
    if isinstance(value, tf.Variable):
        return None
    if internals.is_eager(value):
        return value.numpy()
    if tf.is_tensor(value):
        return tf.get_static_value(value)
    return np.asarray(value)


def _expand(array: np.ndarray, rank: int) -> np.ndarray:
    """Appends axes of length one."""
    return np.reshape(array, np.shape(array) + (1,) * (rank - np.ndim(array)))
