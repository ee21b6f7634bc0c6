"""One gradient for many hyperparameters: its average over all weights, layers or units."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mlhf.checks.arguments import check_choice

SHARINGS = ("all", "layers", "units")


def share(gradient: Any, sharing: str, *, sign: bool = False) -> Any:
    """Returns a gradient with the same value for all entries of a group (Fu et al. 2016).

    Hyperparameters that start with one value per group and follow it keep one value per group.

    Args:
      gradient: A structure like the weights.
      sharing: The groups that the mean is taken over. `"all"`: all entries; `"layers"`: each leaf;
        `"units"`: the outgoing weights of each input unit, that is all axes except the second to
        last (for a dense kernel [in, out] the rows, for a convolution's [h, w, in, out] the input
        channels), with zero for leaves of fewer than two axes, such as biases.
      sign: Whether only the sign of the mean is returned, -1, 0 or 1, for updates of one size.

    Returns:
      The same structure and shapes.

    Raises:
      ValueError: If `sharing` is another word.
    """
    check_choice("sharing", sharing, SHARINGS)
    leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(gradient)]
    if sharing == "all":
        count = sum(leaf.shape.num_elements() for leaf in leaves)
        mean = tf.add_n([tf.reduce_sum(leaf) for leaf in leaves]) / count
        shared = [tf.fill(leaf.shape, mean) for leaf in leaves]
    elif sharing == "layers":
        shared = [tf.fill(leaf.shape, tf.reduce_mean(leaf)) for leaf in leaves]
    else:
        shared = [_by_unit(leaf) for leaf in leaves]
    if sign:
        shared = [tf.sign(leaf) for leaf in shared]
    return tf.nest.pack_sequence_as(gradient, shared)


def _by_unit(leaf: tf.Tensor) -> tf.Tensor:
    rank = leaf.shape.rank
    if rank < 2:
        return tf.zeros_like(leaf)
    axes = [axis for axis in range(rank) if axis != rank - 2]
    return tf.broadcast_to(tf.reduce_mean(leaf, axes, keepdims=True), leaf.shape)
