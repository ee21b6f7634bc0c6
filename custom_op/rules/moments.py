"""The mean that `tf.nn.moments` stops inside the variance.

It computes mean((x - stop_gradient(m))²) with m = mean(x). Since Σ(x - m) = 0 the first derivative
is right; the second is not, because the derivative 2(x - m)/N is then treated as independent of m.
Keras' BatchNormalization in training, LayerNormalization, GroupNormalization and
`keras.ops.moments` inherit this. The rules see through this one pattern: the slope of the squared
difference uses the mean itself, and the stop passes tangents to its other readers, that is, to
TensorFlow's gradient of the variance. The first derivative costs as much as before.
"""

from __future__ import annotations

import re

import tensorflow as tf

# The names in tf.nn.moments; a mean that a user stops stays stopped.
_NAMES = {"Mean": "mean", "StopGradient": "StopGradient", "SquaredDifference": "SquaredDifference"}


def unstopped(deviation: tf.Operation) -> tf.Tensor:
    """Returns what a SquaredDifference subtracts, without the stop of `tf.nn.moments`."""
    subtracted = deviation.inputs[1]
    return subtracted.op.inputs[0] if _stops(subtracted.op, deviation) else subtracted


def is_differentiated_mean(stop: tf.Operation) -> bool:
    """Whether a StopGradient is that of `tf.nn.moments`, and not only the variance reads it."""
    output = stop.outputs[0]
    readers = output.consumers()
    deviations = [reader for reader in readers if _stops(stop, reader)]
    # The gradient of a called function reads the function's outputs.
    leaves = any(result is output for result in getattr(stop.graph, "outputs", []))
    return bool(deviations) and (leaves or len(deviations) < len(readers))


def is_stopped_mean(op: tf.Operation) -> bool:
    """Whether an operation is the StopGradient inside `tf.nn.moments`."""
    return any(_stops(op, reader) for output in op.outputs for reader in output.consumers())


def _stops(stop: tf.Operation, deviation: tf.Operation) -> bool:
    """Whether `tf.nn.moments` squares a deviation from a mean that it stops."""
    if stop.type != "StopGradient" or deviation.type != "SquaredDifference":
        return False
    mean = stop.inputs[0].op
    return (
        mean.type == "Mean"
        and mean.get_attr("keep_dims")
        and deviation.inputs[0] is mean.inputs[0]
        and deviation.inputs[1] is stop.outputs[0]
        and all(_base_name(op) == _NAMES[op.type] for op in (mean, stop, deviation))
    )


def _base_name(op: tf.Operation) -> str:
    """Returns the name without scopes, the prefix of copies and the unique suffix."""
    name = op.name.rpartition("/")[2]
    return re.sub(r"^(r_)*|(_\d+)+$", "", name)
