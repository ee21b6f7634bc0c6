"""Says which label of a batch does not exist, where a compiled step can only give NaN.

A step in a graph ends with an assertion. XLA drops assertions, so that the targets of a step that
it compiled are looked at beside it: a minimum and a maximum on the host, without a wait for the
step. Targets that lie in a GPU's memory are not fetched from there; the step's loss is NaN, and
nothing moves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import tensorflow_internals as internals
from custom_op.losses import targets as loss_targets

# Lists to note outputs in, of the functions that are being traced.
_noting: list[list[tf.Tensor]] = []


class Targets(NamedTuple):
    """What a traced step takes as targets.

    Attributes:
      loss: The loss.
      outputs: The shape and dtype of the network's outputs.
      bounds: What targets lie in; None where they may be any number.
    """

    loss: Any
    outputs: tf.TensorSpec
    bounds: loss_targets.Bounds | None

    def check(self, targets: tf.Tensor) -> None:
        """Checks a batch's targets, or lets the graph that is being traced check them.

        Args:
          targets: As they go into the step.

        Raises:
          ValueError: If they are known and one is out of range.
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
    """Notes the outputs of the networks that are run inside, in the list that it gives."""
    _noting.append([])
    try:
        yield _noting[-1]
    finally:
        _noting.pop()


def note(outputs: Any) -> None:
    """Notes a network's outputs for who asked."""
    if _noting and tf.is_tensor(outputs):
        _noting[-1].append(outputs)


def targets_of(loss: Any, outputs: tf.Tensor, targets: tf.Tensor) -> Targets:
    """Returns what a step takes as targets, from those that it was traced with."""
    outputs = tf.TensorSpec(outputs.shape, outputs.dtype)
    find = getattr(loss, "target_bounds", None)
    bounds = find(outputs, loss.prepare(outputs, targets)) if find else None
    return Targets(loss, outputs, bounds)
