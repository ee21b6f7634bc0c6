"""Reports labels that are out of range, for which a compiled step can only return NaN.

A step in a graph ends with an assertion. XLA drops assertions, so the targets of a step that it
compiled are checked separately, by their minimum and maximum on the host, without waiting for the
step. Targets in a GPU's memory are not fetched: the loss of the step is NaN, and the parameters
stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import tensorflow_internals as internals
from custom_op.losses import targets as loss_targets

# Lists of networks' outputs, one for each function that is being traced.
_noting: list[list[tf.Tensor]] = []


class Targets(NamedTuple):
    """The targets that a traced step accepts.

    Attributes:
      loss: The loss.
      outputs: The shape and dtype of the network's outputs.
      bounds: The bounds of targets; None where they may be any number.
    """

    loss: Any
    outputs: tf.TensorSpec
    bounds: loss_targets.Bounds | None

    def check(self, targets: tf.Tensor) -> None:
        """Checks a batch's targets, or adds the check to the graph that is being traced.

        Args:
          targets: The targets as the step gets them.

        Raises:
          ValueError: If their values are known and one is out of range.
        """
        if self.bounds is None:
            return
        if not internals.is_eager(targets):
            loss_targets.assert_in_range(self.loss, self.outputs, targets)
        elif "CPU" in targets.backing_device:
            values, ignored = targets.numpy(), getattr(self.loss, "ignore_index", None)
            if ignored is not None and values.dtype.kind in "iu":
                values = values[values != ignored]
            loss_targets.check_values(self.loss, self.bounds, values, finite=False)


@contextlib.contextmanager
def noted() -> Iterator[list[tf.Tensor]]:
    """Yields a list that collects the outputs of the networks that run inside the block."""
    _noting.append([])
    try:
        yield _noting[-1]
    finally:
        _noting.pop()


def note(outputs: Any) -> None:
    """Adds a network's outputs to the list of the innermost `noted`."""
    if _noting and tf.is_tensor(outputs):
        _noting[-1].append(outputs)


def targets_of(loss: Any, outputs: tf.Tensor, targets: tf.Tensor) -> Targets:
    """Returns which targets a step accepts, judging by those that it was traced with."""
    outputs = tf.TensorSpec(outputs.shape, outputs.dtype)
    find = getattr(loss, "target_bounds", None)
    bounds = find(outputs, loss.prepare(outputs, targets)) if find else None
    return Targets(loss, outputs, bounds)
